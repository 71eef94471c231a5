"""Printing for the commands that answer at once. rich draws; colours go to a terminal only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainkit.errors import Problem


def say(text: str, error: bool = False) -> None:
    """`text` as it is, to stdout or stderr; nothing is wrapped, so that it can be searched and copied."""
    Console(stderr=error).print(text, markup=False, highlight=False, soft_wrap=True)


def title(text: str) -> None:
    Console().print(f"[bold]{escape(text)}[/bold]", highlight=False, soft_wrap=True)


def show_rows(rows: Iterable[tuple[str, str]], width: int = 0) -> None:
    """Names in bold and what is to be said of each, in two columns; the second wraps within itself."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True, min_width=width)
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(f"  {escape(name)}", escape(text))
    Console().print(grid, highlight=False)


def show_problems(problems: Sequence[Problem]) -> None:
    """Everything that is wrong, to stderr."""
    console = Console(stderr=True)
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    console.print(f"[bold red]{count}[/bold red]; nothing was started", highlight=False)
    for problem in problems:
        console.print(f"  {escape(str(problem))}".replace("\n", "\n  "), highlight=False, soft_wrap=True)
