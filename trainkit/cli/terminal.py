"""Printing for the commands that answer at once. rich draws; colours go to a terminal only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from trainkit.errors import Problem
from trainkit.secrets import HIDDEN, shown, without_login

PLAIN_WIDTH = 160
"""A file or a pipe has no width of its own."""


def say(text: str, error: bool = False) -> None:
    """`text` as it is, to stdout or stderr; nothing is wrapped, so that it can be searched and copied."""
    _console(error).print(text, markup=False, soft_wrap=True)


def title(text: str) -> None:
    _console().print(f"[bold]{escape(text)}[/bold]", soft_wrap=True)


def show_rows(rows: Iterable[tuple[str, str]], width: int = 0) -> None:
    """Names in bold and what is to be said of each, in two columns; the second wraps within itself. Where the names
    leave it less than a third of the terminal, it is below them."""
    console, listed = _console(), [*rows]
    if 3 * max((len(name) for name, _ in listed), default=0) > 2 * console.width:
        for name, text in listed:
            console.print(f"  [bold]{escape(name)}[/bold]", soft_wrap=True)
            console.print(Padding(escape(text), (0, 0, 0, 6)))
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True, min_width=width)
    grid.add_column(overflow="fold")
    for name, text in listed:
        grid.add_row(f"  {escape(name)}", escape(text))
    console.print(grid)


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns under a bold header. Nothing is wrapped, so that a row stays a line."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for number, line in enumerate(lines):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        (say if number else title)(f"  {text}")


def size(count: float) -> str:
    """Bytes for a person: 61761126 -> 58.9 MiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.0f} B" if units[0] == "B" else f"{count:.1f} {units[0]}"


def show_problems(problems: Sequence[Problem]) -> None:
    """Everything that is wrong, to stderr."""
    console = _console(error=True)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    console.print(f"[bold red]{count}[/bold red]; nothing was started")
    for problem in problems:
        secret = shown(problem.key, problem.value) == HIDDEN
        told = without_login(str(replace(problem, value=HIDDEN) if secret else problem))
        console.print(f"  {escape(told)}".replace("\n", "\n  "), soft_wrap=True)


def _console(error: bool = False) -> Console:
    console = Console(stderr=error, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
