"""doctor [FOLDER]: whether this machine can train, and what to do where it cannot. What can be tried is tried: two
ranks meet and add numbers up, and files are written to the disk of FOLDER (by default the working directory)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trainkit.cli.doctor import collective, disk, machine, services
from trainkit.cli.doctor.check import Check
from trainkit.cli.terminal import say, show_rows
from trainkit.errors import EXIT_DONE, EXIT_FAILED, ConfigError, Problem

WORD = {"ok": "ok", "warning": "warning", "fault": "FAULT"}


def main(words: Sequence[str]) -> int:
    folder = Path(words[0] if words else ".").expanduser().absolute()
    if len(words) > 1:
        raise ConfigError([Problem("", "", "the command is: doctor [FOLDER]", "FOLDER: where runs are to be")])
    if not folder.is_dir():
        raise ConfigError([Problem("", "", f"there is no folder {folder}")])
    found: list[Check] = []
    for check in checks(folder):  # shown as they come: the collectives take seconds
        found.append(check)
        remedy = f"\n-> {check.remedy}" if check.remedy else ""
        show_rows([(check.what, f"{WORD[check.level]}: {check.found}{remedy}")], 16)
    faults, warnings = (sum(check.level == level for check in found) for level in ("fault", "warning"))
    say(f"\n{len(found)} checks: faults {faults}, warnings {warnings}")
    return EXIT_FAILED if faults else EXIT_DONE


def checks(folder: Path) -> Iterator[Check]:
    yield from machine.checks()
    yield from disk.checks(folder)
    yield from collective.checks()
    yield from services.checks()
