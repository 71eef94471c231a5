"""tracker=wandb: the files that W&B's own library writes, as its own records are read, and a server that is away."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import until
from tests.unit.tracker.conftest import info, losses, measured, rows, write
from trainkit.config import build, compose
from trainkit.runfolder import RunFolder, truncate_after
from trainkit.tracker._several import several
from trainkit.tracker.follower import Followers
from trainkit.tracker.tensorboard import Tensorboard
from trainkit.tracker.wandb import Wandb

pytest.importorskip("wandb", reason="pip install 'trainkit[wandb]'")
OFFLINE = Wandb(project="unit", entity=None, mode="offline")
ONLINE = Wandb(project="unit", entity=None, mode="online")
BLOCK, HEAD = 32768, 7  # of LevelDB's log format, in which the records are


def parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind (1 whole, 2 first, 3 middle, 4 last) and content of every piece of a record."""
    at = HEAD  # W&B's own
    while at < len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        yield kind, data[at + HEAD : at + HEAD + size]
        at += HEAD + size


def records(root: Path) -> list[Any]:
    """All, the last of which W&B's process writes some time after it has said that the run is finished."""
    until(lambda: any(record.WhichOneof("record_type") == "exit" for record in written(root)), "the file is whole")
    return written(root)


def written(root: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = root.glob("wandb/offline-run-*/*.wandb")
    found, begun = [], b""
    for kind, content in parts(file.read_bytes()):
        begun += content
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(begun)
            found.append(record)
            begun = b""
    return found


def history(root: Path) -> list[dict[str, Any]]:
    """The rows that `wandb sync` would send."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(root)
        if record.WhichOneof("record_type") == "history"
    ]


def curve(root: Path) -> list[tuple[int, float]]:
    return [(row["_step"], row["train/loss"]) for row in history(root)]


def follow(root: Path, *steps: int, attempt: int = 1, **params: str) -> Followers:
    followers = Followers(OFFLINE, info(root, attempt, **params))
    followers.start()
    write(root, *steps, attempt=attempt)
    assert followers.finish("FINISHED", 60) == 0
    assert followers.trouble is None
    return followers


def test_the_files_have_what_the_journal_has_also_after_a_run_went_back(tmp_path: Path) -> None:
    root = tmp_path / "back"
    follow(root, 1, 2, 3, 4)
    noted = (root / "wandb/trainkit-run-id").read_text()
    truncate_after(RunFolder(root).metrics, 2)
    followers = follow(root, 3, 4, 5, attempt=2)
    assert curve(root) == losses(1, 2, 3, 4, 5)
    (run,) = [record.run for record in records(root) if record.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.display_name, run.project) == (noted, "back", "unit")
    assert followers.where == f"wandb sync {next(root.glob('wandb/offline-run-*'))}"


def test_it_is_told_the_configuration_and_no_secret(tmp_path: Path) -> None:
    root = tmp_path / "told"
    given = info(root, **{"train.lr": "0.5"})
    RunFolder(root).config.write_text("tracker: {uri: 'http://me:swordfish@host'}\nhub_token: swordfish\n")
    followers = Followers(OFFLINE, given)
    followers.start()
    write(root, 1)
    assert followers.finish("KILLED", 60) == 0
    said = [record.run for record in records(root) if record.WhichOneof("record_type") == "run"]
    assert {item.key: json.loads(item.value_json) for item in said[0].config.update}["train.lr"] == "0.5"
    sent = [path for path in root.glob("wandb/**/*") if path.is_file()]
    assert any(path.match("files/trainkit/config.yaml") for path in sent)
    assert not [path for path in sent if b"swordfish" in path.read_bytes()]
    (end,) = [record.exit.exit_code for record in records(root) if record.WhichOneof("record_type") == "exit"]
    assert end != 0


def test_a_server_that_does_not_answer_holds_up_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")  # nobody listens on it
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    root = tmp_path / "away"
    chosen = several({"wandb": Wandb, "tensorboard": Tensorboard})(wandb=ONLINE, tensorboard=Tensorboard(dir=None))
    followers = Followers(chosen, info(root))
    followers.start()
    write(root, 1, 2)
    assert followers.finish("FINISHED", 60) == 2
    assert followers.trouble is not None and followers.trouble.startswith("wandb: ")
    assert followers.where == f"tensorboard --logdir {root / 'tensorboard'}"


def test_whoever_is_not_logged_in_is_told_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    settings, _ = build(compose(["recipe=image_classification", "train.device=cpu", "tracker=wandb"]))
    assert settings is not None
    (problem,) = settings.tracker.problems()
    assert (problem.key, problem.value) == ("tracker.mode", "online")
    assert "wandb login" in str(problem.hint)
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert ONLINE.problems() == ()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert ONLINE.problems() == ()


def test_how_busy_machines_were_is_part_of_the_newest_row(tmp_path: Path) -> None:
    root = tmp_path / "busy"
    session = OFFLINE.open(info(root))
    assert session is not None
    session.log(rows(1))
    session.measure(measured(root, 1, 2))
    session.log(rows(2))
    session.measure(measured(root, 3)[2:])
    session.close("FINISHED")
    key = "system/n1/cpu_utilization_percentage"
    assert [(row["_step"], row.get(key)) for row in history(root)] == [(1, 21.0), (2, 31.0)]
