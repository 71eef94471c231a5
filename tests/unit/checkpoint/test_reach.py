"""A store that cannot be used is refused before the start, by name; what it holds counts as what the folder holds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.conformance.settings import make
from tests.unit.checkpoint.objects import URL, Told, copier_of, copy, empty
from tests.unit.checkpoint.samples import saved, state, store_in, trainer
from trainkit.checkpoint import reach
from trainkit.config import check
from trainkit.errors import ConfigError, Problem
from trainkit.protocols import Cluster
from trainkit.runfolder import RunFolder, is_url
from trainkit.settings import Settings, fixed_keys

ONE = Cluster(hosts=1, ranks=1, gpus=0, cores=2)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    empty()
    yield
    empty()


def refused(url: str, seconds: float = reach.ANSWER_S) -> Problem:
    with pytest.raises(ConfigError) as caught:
        reach.newest(url, seconds)
    (problem,) = caught.value.problems
    assert problem.key == "checkpoint.dir"
    return problem


@pytest.mark.parametrize("place", ["runs/a", "/runs/a", "./a:b", "C:/a", "../s3:/a", "://a"])
def test_a_path_is_no_url(place: str, tmp_path: Path) -> None:
    assert not is_url(place)
    assert RunFolder(tmp_path).checkpoints(place) == Path(place)


@pytest.mark.parametrize("place", ["s3://bucket", "file:///a", "memory://a", "abfs+x://a/b"])
def test_with_a_url_the_checkpoints_are_in_the_run_folder(place: str, tmp_path: Path) -> None:
    assert is_url(place)
    assert RunFolder(tmp_path).checkpoints(place) == tmp_path / "checkpoints"


def test_a_scheme_that_nobody_knows() -> None:
    problem = refused("s4://bucket/a")
    assert (problem.value, problem.message) == ("s4://bucket/a", "cannot be used: Protocol not known: s4")
    assert "s3://bucket" in problem.hint


def test_a_library_that_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    problem = refused("gs://bucket/a")
    assert "Please install gcsfs" in problem.message
    assert problem.hint == "pip install gcsfs"


def test_a_login_in_the_url_is_not_told() -> None:
    assert refused("s4://me:secret@bucket/a").value == "s4://(not shown)@bucket/a"


def test_a_store_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def ls(self: MemoryFileSystem, path: str, detail: bool = True) -> None:
        raise ConnectionError("nobody is there")

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    assert "cannot be reached: ConnectionError: nobody is there" in refused(URL).message


def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()

    def ls(self: MemoryFileSystem, path: str, detail: bool = True) -> list[object]:
        answer.wait(60)
        return []

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    assert "does not answer in 0.05 s" in refused(URL, 0.05).message
    answer.set()


def test_an_empty_store_is_a_good_one() -> None:
    assert reach.newest(URL) is None


def test_half_a_copy_is_none(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    copy(copier_of(tmp_path, Told()), 1)
    MemoryFileSystem().pipe_file("/bucket/runs/a/step_2/MANIFEST.json", b"{}")
    newest = reach.newest(URL)
    assert newest is not None
    assert (newest.step, newest.where) == (1, f"{URL}/step_1")
    assert newest.manifest == (tmp_path / "step_1/MANIFEST.json").read_text()


# ------------------------------------------------------------------------------------------- the run


def stored(folder: Path, settings: Settings, step: int) -> None:
    """A copy of step `step`, written by a run of `settings` on another machine."""
    about = {"recipe": "decoder", "fixed": fixed_keys(settings)}
    store_in(folder, about=about).save(step, state(step), trainer(step))
    copy(copier_of(folder, Told()), step)


def problems(settings: Settings) -> list[tuple[str, object]]:
    return [(problem.key, problem.value) for problem in check(settings, ONE)]


def test_copies_count_for_resume(tmp_path: Path) -> None:
    settings = make(str(tmp_path / "new"), checkpoint={"dir": URL})
    must, never = replace(settings, resume="must"), replace(settings, resume="never")
    assert [problems(each) for each in (settings, must, never)] == [[], [("resume", "must")], []]
    stored(tmp_path / "other", settings, 5)
    assert [problems(each) for each in (settings, must, never)] == [[], [], [("resume", "never")]]


def test_a_copy_of_another_configuration_is_refused(tmp_path: Path) -> None:
    stored(tmp_path / "other", make(str(tmp_path / "other")), 5)
    (problem,) = check(make(str(tmp_path / "new"), checkpoint={"dir": URL}, seed=8), ONE)
    assert (problem.key, problem.value) == ("train.seed", 8)
    assert f"the checkpoint {URL}/step_5 was written with 7" in problem.message


def test_a_store_that_is_down_is_one_problem(tmp_path: Path) -> None:
    assert problems(make(str(tmp_path), checkpoint={"dir": "s4://bucket"})) == [("checkpoint.dir", "s4://bucket")]
