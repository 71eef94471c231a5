"""The README's table of features and strategies, between two comments, is what the code says of itself."""

from __future__ import annotations

from pathlib import Path

from tests.conformance.features import render, table

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- features: written by `make golden` -->\n\n", "\n\n<!-- end of features -->"


def test_the_readme_says_what_the_strategies_answer(write_golden: bool) -> None:
    before, begin, rest = README.read_text().partition(BEGIN)
    written, end, after = rest.partition(END)
    assert begin and end, f"{README} has lost the comments around the table"
    expected = render(table())
    if write_golden:
        README.write_text(before + begin + expected + end + after)
        return
    assert written == expected, "if the table is to change: make golden, and commit the difference"
