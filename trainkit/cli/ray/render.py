"""ray render: a run as a RayJob of KubeRay, or the file of a cluster for `ray up`, on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml

from trainkit.cli.ray import option, under_ray, usage
from trainkit.cli.run import prepare
from trainkit.errors import EXIT_DONE, ConfigError, Problem
from trainkit.launcher import _ray_manifest
from trainkit.launcher.ray import Ray

KINDS = ("rayjob", "cluster")


def main(words: Sequence[str]) -> int:
    if not words or words[0] not in KINDS:
        raise usage("render")
    sys.stdout.write(rendered(words[0], words[1:]))
    return EXIT_DONE


def rendered(kind: str, words: Sequence[str]) -> str:
    """The file, of a run that is checked."""
    left = [*words]
    image = option(left, "--image", _ray_manifest.IMAGE)
    run = under_ray(left)
    config, settings, cluster = prepare(run)
    if not isinstance(settings.launcher, Ray):
        raise ConfigError([Problem("launcher", "ray", "is another component here", "rename your own")])
    wanted = settings.launcher.wanted(cluster)
    made = _ray_manifest.job if kind == "rayjob" else _ray_manifest.cluster
    return _ray_manifest.HEADS[kind] + yaml.safe_dump(made(config, run, wanted, image), sort_keys=False, width=120)
