"""ray render: a run as a RayJob of KubeRay, or the file of a cluster for `ray up`, on stdout."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import yaml

from trainkit.cli.ray import usage
from trainkit.cli.under import prepare_under, under
from trainkit.cli.words import parse
from trainkit.errors import EXIT_DONE
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
    plain, given = parse(words, {"--image": None})
    run = under("ray", plain)
    config, _, cluster, launcher = prepare_under(Ray, run)
    wanted, image = launcher.wanted(cluster), given.get("--image", _ray_manifest.IMAGE)
    made = _ray_manifest.job if kind == "rayjob" else _ray_manifest.cluster
    return _ray_manifest.HEADS[kind] + yaml.safe_dump(made(config, run, wanted, image), sort_keys=False, width=120)
