"""The run of a tracker under which it shows the members of a sweep."""

from __future__ import annotations

from collections.abc import Mapping

from trainkit.cli.terminal import say
from trainkit.errors import EXIT_DONE
from trainkit.front import tracker_status
from trainkit.protocols import RunInfo
from trainkit.secrets import shown
from trainkit.settings import Settings
from trainkit.sweep.member import Result
from trainkit.sweep.record import Asked, SweepFolder
from trainkit.tracker.follower import reason, sync


def close(sweep: SweepFolder, asked: Asked, settings: Settings, results: Mapping[str, Result], code: int) -> None:
    """End it, with what was asked for and the best value. A tracker that is down changes nothing."""
    values = [result.value for result in results.values() if result.counts and result.value is not None]
    params = {space.key: shown(space.key, ",".join(space.ends)) for space in asked.spaces}
    params |= {"sweep.sampler": asked.sampler, "sweep.metric": asked.metric}
    tags = {"trainkit.attempt": "1", "trainkit.run_dir": str(sweep.root), "recipe": settings.name}
    if values:
        tags[f"sweep.best.{asked.metric}"] = str(min(values) if asked.mode == "min" else max(values))
    info = RunInfo(folder=sweep.root, name=f"{settings.name} {sweep.root.name}", params=params, tags=tags)
    try:
        sync(settings.tracker, info, [], tracker_status(code))
    except Exception as error:  # whatever a tracker raises means the same here: it cannot be reached
        again = "" if code != EXIT_DONE else "; the same command tries again"
        say(f"the tracker cannot be reached ({reason(error)}){again}", error=True)
