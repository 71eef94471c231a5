"""checkpoint verify RUN|CHECKPOINT: read every file, and name each that is not what was written. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.checkpoint import manifest as m
from trainkit.cli.checkpoint.place import find
from trainkit.cli.checkpoint.words import parse
from trainkit.cli.terminal import say, size
from trainkit.errors import EXIT_DONE, EXIT_FAILED


def main(words: Sequence[str]) -> int:
    (word,), _ = parse("verify", words, 1)
    place = find(word)
    paths = [place.one] if place.one else [m.step_folder(place.folder, step) for step in place.steps()]
    damaged = 0
    for path in paths:
        problems = m.verify(path)
        damaged += bool(problems)
        if problems:
            say(f"{path}: DAMAGED\n" + "\n".join(f"    {problem}" for problem in problems))
        else:
            files = m.read_manifest(path)["files"]
            total = sum(count for count, _ in files.values())
            say(f"{path}: OK ({len(files)} files, {size(total)}, {len(m.read_manifest(path)['tensors'])} tensors)")
    return EXIT_FAILED if damaged else EXIT_DONE
