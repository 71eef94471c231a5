"""Following a journal: every row once, however its writer's chunks fall, and from the beginning after a replacement."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit.runfolder import append_line, truncate_after
from trainkit.tail import Tail

TEXT = "".join(f'{{"step":{step},"text":"grüße"}}\n' for step in range(5)).encode()


@given(cuts=st.sets(st.integers(0, len(TEXT))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_row_comes_once_it_is_whole_and_only_once(cuts: set[int], tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.unlink(missing_ok=True)
    tail = Tail(path)
    assert tail.rows() == []
    seen: list[int] = []
    bounds = [0, *sorted(cuts), len(TEXT)]
    for start, stop in pairwise(bounds):
        with path.open("ab") as f:
            f.write(TEXT[start:stop])
        seen += [row["step"] for row in tail.rows()]
        assert seen == list(range(TEXT[:stop].count(b"\n")))


def test_a_replaced_journal_is_read_from_its_beginning(tmp_path: Path) -> None:
    """As a resumed run does: the torn half of the old file must not stick to the first row of the new one."""
    path = tmp_path / "j.jsonl"
    for step in (1, 2, 3):
        append_line(path, {"step": step})
    with path.open("a") as f:
        f.write('{"step":4')
    tail = Tail(path)
    assert [row["step"] for row in tail.rows()] == [1, 2, 3]
    truncate_after(path, 2)
    for step in (3, 4, 5):
        append_line(path, {"step": step})
    assert [row["step"] for row in tail.rows()] == [1, 2, 3, 4, 5]
    assert tail.rows() == []
