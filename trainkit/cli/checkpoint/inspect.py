"""checkpoint inspect RUN|CHECKPOINT [--tensors]: what is in it, from the small files beside the tensors. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint import retention
from trainkit.cli.checkpoint.place import Place, find
from trainkit.cli.checkpoint.words import parse
from trainkit.cli.terminal import say, show_rows, show_table, size, title
from trainkit.errors import EXIT_DONE, CheckpointError

LARGEST = 5  # tensors that are shown without --tensors
BITS = re.compile(r"\d+")


def main(words: Sequence[str]) -> int:
    (word,), given = parse("inspect", words, 1, flags=["--tensors"])
    place = find(word)
    if place.one:
        show(place.one, "--tensors" in given)
    else:
        title(str(place.folder))
        show_table(("step", "samples", "metrics", "size", "written by", ""), list(listing(place)))
        say("\nsizes were checked, contents were not: `checkpoint verify` reads every file")
    return EXIT_DONE


def listing(place: Place) -> Iterator[tuple[str, ...]]:
    """One row per checkpoint of a run, and per folder that no longer or not yet is one."""
    steps = place.steps()
    problems = {step: m.glance(m.step_folder(place.folder, step)) for step in steps}
    good = [step for step in steps if not problems[step]]
    keep = place.config.get("checkpoint", {})
    metric = keep.get("metric")
    damaged = set(steps) - set(good)
    best = retention.best(place.folder, metric, keep.get("mode", "min"), damaged) if metric else None
    for step in steps:
        path = m.step_folder(place.folder, step)
        if problems[step]:
            yield str(step), "", "", "", "", f"damaged: {'; '.join(problems[step])}"
            continue
        manifest, trainer = m.read_manifest(path), m.read_trainer(path)
        marks = ["latest"] if step == good[-1] else []
        marks += [f"best by {metric}"] if path == best else []
        total = sum(count for count, _ in manifest["files"].values())
        samples = str(trainer["progress"].get("samples", ""))
        yield str(step), samples, metrics(trainer), size(total), writer(manifest["about"]), ", ".join(marks)
    for pattern, what in ((".writing-*", "a save that has not ended"), (".damaged-*", "damaged, moved aside")):
        for leftover in sorted(place.folder.glob(pattern)):
            yield leftover.name, "", "", "", "", what


def show(path: Path, every: bool) -> None:
    """One checkpoint. Raises CheckpointError if its manifest cannot be read."""
    problems = m.glance(path)
    try:
        manifest = m.read_manifest(path)
        tensors: dict[str, list[Any]] = manifest["tensors"]
    except (OSError, ValueError, LookupError) as error:
        raise CheckpointError(f"{path} cannot be read: {'; '.join(problems) or error}") from error
    title(str(path))
    show_rows(facts(path, manifest, problems), 10)
    title("\ntensors")
    show_table(("kind", "tensors", "elements", "bytes"), list(kinds(tensors)))
    title("\nall of them" if every else f"\nlargest (--tensors lists all {len(tensors)})")
    names = list(tensors) if every else sorted(tensors, key=lambda name: volume(tensors[name]), reverse=True)[:LARGEST]
    rows = [(name, str(tensors[name][1]), str(tensors[name][0]), size(volume(tensors[name]))) for name in names]
    show_table(("name", "shape", "type", "bytes"), rows)


def facts(path: Path, manifest: Mapping[str, Any], problems: Sequence[str]) -> Iterator[tuple[str, str]]:
    about = manifest["about"]
    yield "step", str(manifest["step"])
    try:
        trainer = m.read_trainer(path)
    except (OSError, ValueError):
        pass  # `files` names it
    else:
        yield "samples", str(trainer["progress"].get("samples", "unknown"))
        yield "metrics", metrics(trainer) or "none yet"
    yield "recipe", str(about.get("recipe", "unknown"))
    versions = ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())
    yield "written by", f"{writer(about)}; {versions or 'versions unknown'}"
    total = sum(count for count, _ in manifest["files"].values())
    told = "; ".join(problems) or "all there in full size; `checkpoint verify` reads them"
    yield "files", f"{len(manifest['files'])}, {size(total)}: {told}"


def kinds(tensors: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, ...]]:
    """Weights, averaged weights and each moment: how many tensors, elements and bytes."""
    groups: dict[str, list[Sequence[Any]]] = {}
    for name, entry in tensors.items():
        kind, _, rest = name.partition(".")
        groups.setdefault(f"optimizer {rest.rpartition('.')[2]}" if kind == "optimizer" else kind, []).append(entry)
    order = sorted(groups, key=lambda kind: (kind != "model", kind))
    for kind, entries in [*((kind, groups[kind]) for kind in order), ("together", list(tensors.values()))]:
        elements = sum(math.prod(shape) for _, shape in entries)
        yield kind, str(len(entries)), f"{elements:,}", size(sum(map(volume, entries)))


def volume(entry: Sequence[Any]) -> int:
    """Bytes of a tensor, from [type, shape]. torch's types say their bits; bool takes a byte."""
    bits = BITS.search(entry[0])
    elements: int = math.prod(entry[1])
    return elements * (int(bits[0]) // 8 if bits else 1)


def metrics(trainer: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in trainer["metrics"].items())


def writer(about: Mapping[str, Any]) -> str:
    return f"{about.get('strategy', 'unknown')}, {about.get('ranks', 'unknown')} rank(s)"
