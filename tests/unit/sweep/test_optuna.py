"""Optuna's trials, as several processes see them that may be killed at any time. Every Study here is one more process:
what it holds are locks of the kernel, which `kill` gives back as the death of a process would."""

from __future__ import annotations

import gc
from collections import Counter
from pathlib import Path

import optuna
import pytest

from trainkit.config.space import Space
from trainkit.errors import TrainkitError
from trainkit.sweep.member import Member, Result
from trainkit.sweep.optuna import Study
from trainkit.sweep.record import Asked, SweepFolder

SPACES = (
    Space(key="optimizer.lr", low=1e-5, high=1e-1, log=True),
    Space(key="recipe.width", low=8, high=64, whole=True),
    Space(key="train.seed", values=("1", "3", "5"), step=2),
    Space(key="strategy", values=("ddp", "fsdp")),
)


def asked(**more: object) -> Asked:
    return Asked(**{"shared": [], "spaces": SPACES, "sampler": "tpe", "trials": 4, **more})  # type: ignore[arg-type]


def kill(study: Study) -> None:
    for _, lock in study._mine.values():
        lock.release()
    study._mine.clear()
    gc.collect()


def taken(study: Study) -> Member:
    member = study.next()
    assert member is not None
    return member


def stored(root: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials, as Optuna alone reads its journal."""
    backend = optuna.storages.journal.JournalFileBackend(str(root / "optuna.journal"))
    return optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(backend)).trials


def test_values_are_drawn_from_their_spaces_and_told_as_typed(tmp_path: Path) -> None:
    study = Study(SweepFolder(tmp_path), asked(trials=12))
    members = [taken(study) for _ in range(12)]
    for number, member in enumerate(members):
        assert list(member.values) == [space.key for space in SPACES]
        assert 1e-5 <= float(member.values["optimizer.lr"]) <= 1e-1
        assert 8 <= int(member.values["recipe.width"]) <= 64
        assert member.values["train.seed"] in SPACES[2].values
        assert member.values["strategy"] in SPACES[3].values
        assert member.name.startswith(f"{number}_lr=")
    assert len({member.values["optimizer.lr"] for member in members}) == 12
    assert {name: dict(m.values) for name, m in study.members().items()} == {m.name: dict(m.values) for m in members}
    assert study.next() is None


def test_a_trial_whose_process_is_killed_is_taken_up_as_it_was(tmp_path: Path) -> None:
    first = Study(SweepFolder(tmp_path), asked())
    done, open_ = taken(first), taken(first)
    first.tell(done, Result("done", 9, 0.5))
    kill(first)
    again = Study(SweepFolder(tmp_path), asked())
    assert taken(again) == open_
    rest = [taken(again), taken(again)]
    assert again.next() is None
    for member in (open_, *rest):
        again.tell(member, Result("done", 9, 0.25))
    assert [trial.value for trial in stored(tmp_path)] == [0.5, 0.25, 0.25, 0.25]
    more = Study(SweepFolder(tmp_path), asked(trials=5))
    assert taken(more).name.startswith("4_")


def test_a_trial_that_was_only_half_drawn_is_drawn_to_its_end(tmp_path: Path) -> None:
    first = Study(SweepFolder(tmp_path), asked())
    half = first._study.ask()
    lr = half.suggest_float("optimizer.lr", 1e-5, 1e-1, log=True)
    assert first.members() == {}
    kill(first)
    member = taken(Study(SweepFolder(tmp_path), asked()))
    assert float(member.values["optimizer.lr"]) == pytest.approx(lr, rel=1e-5)
    assert len(stored(tmp_path)) == 1


def test_processes_that_share_a_sweep_never_have_the_same_trial(tmp_path: Path) -> None:
    studies = [Study(SweepFolder(tmp_path), asked(trials=9)) for _ in range(3)]
    names = [taken(study).name for _ in range(3) for study in studies]
    assert max(Counter(names).values()) == 1
    assert [study.next() for study in studies] == [None] * 3


def test_a_failed_trial_is_left_to_the_next_command(tmp_path: Path) -> None:
    study = Study(SweepFolder(tmp_path), asked(trials=2))
    member = taken(study)
    study.tell(member, Result("failed", 3, None, "no"))
    assert taken(study) != member
    assert study.next() is None
    assert taken(Study(SweepFolder(tmp_path), asked(trials=2))) == member


def test_a_journal_that_a_kill_cut_off_is_read_and_written_on(tmp_path: Path) -> None:
    study = Study(SweepFolder(tmp_path), asked())
    member = taken(study)
    kill(study)
    with (tmp_path / "optuna.journal").open("ab") as journal:
        journal.write(b'{"op_code":6,"wor')
    again = Study(SweepFolder(tmp_path), asked())
    assert taken(again) == member
    again.tell(member, Result("done", 9, 1.0))
    assert stored(tmp_path)[0].value == 1.0


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_member_that_falls_behind_is_pruned(tmp_path: Path, pruner: str, mode: str) -> None:
    study = Study(SweepFolder(tmp_path), asked(trials=60, prune=pruner, mode=mode, sampler="random"))
    sign = 1 if mode == "min" else -1
    for _ in range(40):
        good = taken(study)
        assert not any(study.prune(good, [sign * 1.0] * n) for n in range(1, 10))
        study.tell(good, Result("done", 9, sign * 1.0))
    bad = taken(study)
    reached = next((n for n in range(1, 10) if study.prune(bad, [sign * 9.0] * n)), None)
    assert reached is not None
    kill(study)
    again = Study(SweepFolder(tmp_path), asked(trials=60, prune=pruner, mode=mode, sampler="random"))
    assert taken(again) == bad
    assert again.prune(bad, [])  # a kill before the journal had the end: it is not run again
    again.tell(bad, Result("pruned"))
    assert stored(tmp_path)[40].state is optuna.trial.TrialState.PRUNED
    assert again.judged(bad, Result("stopped", 5, 9.0)).status == "pruned"


def test_a_metric_that_there_is_none_of_is_told(tmp_path: Path) -> None:
    study = Study(SweepFolder(tmp_path), asked())
    with pytest.raises(TrainkitError, match="has no eval_loss"):
        study.tell(taken(study), Result("done", 9, None))


def test_a_loss_that_is_no_number_is_a_failed_trial(tmp_path: Path) -> None:
    study = Study(SweepFolder(tmp_path), asked(trials=1))
    study.tell(taken(study), Result("done", 9, float("nan")))
    assert stored(tmp_path)[0].state is optuna.trial.TrialState.FAIL
    assert Study(SweepFolder(tmp_path), asked(trials=1)).next() is None
