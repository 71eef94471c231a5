"""The names that recipes, scripts and other tools may rely on. A change here is a change of the contract."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from types import ModuleType

import trainkit
from trainkit import errors, preflight, protocols, settings
from trainkit.cli.main import COMMANDS


def test_the_package() -> None:
    assert trainkit.__all__ == ["Batch", "Data", "Problem", "Source", "Task", "__version__"]
    assert all(name in vars(trainkit) for name in trainkit.__all__)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert trainkit.__version__ == project["version"]


def test_the_seams() -> None:
    assert defined(protocols) == {
        *("Batch", "Source", "Data", "Task"),
        *("Optimizer", "Schedule", "Tracker", "TrackerSession", "RunInfo"),
        *("Cluster", "Ranks", "World", "Training", "Engine", "Strategy", "Job", "Launcher"),
    }
    assert defined(preflight) == {"Claim", "Configured", "Divides", "HandsOver", "Lacking", "Layered", "Sweeps"}


def defined(module: ModuleType) -> set[str]:
    return {n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__}


def test_what_a_recipe_fills_in() -> None:
    assert protocols.Task.__abstractmethods__ == {"build_model", "build_data", "loss"}
    methods = {n for n, v in vars(protocols.Task).items() if callable(v) and not n.startswith("_")}
    assert methods == {
        *("build_model", "build_data", "loss", "metrics", "problems", "prepare", "blocks", "sample", "export"),
        *("model_shape", "tensor_plan", "sequence_part", "pipeline", "example"),
    }


def test_the_keys() -> None:
    def keys(kind: type) -> list[str]:
        return [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all are dataclasses

    assert {
        name: keys(vars(settings)[name])
        for name in ("Run", "Train", "Checkpoint", "DataSettings", "Recovery", "Watchdog", "Integrity")
    } == {
        "Run": ["dir", "max_hours", "signals"],
        "Train": [
            *("steps", "epochs", "global_batch", "micro_batch", "seed", "clip_norm", "precision", "device"),
            *("log_every", "eval_every", "patience", "ema", "activation_checkpointing", "compile"),
        ],
        "Checkpoint": [
            *("every", "mtbf_hours", "memory_every", "asynchronous", "max_failures"),
            *("keep", "keep_every", "metric", "mode", "dir"),
        ],
        "DataSettings": ["ledger", "workers"],
        "Recovery": ["killed", "raised", "hung", "corrupt", "repeats", "pause_s", "place", "rest_s"],
        "Watchdog": ["timeout", "slow"],
        "Integrity": ["every"],
    }


def test_the_exit_codes() -> None:
    assert (errors.EXIT_DONE, errors.EXIT_FAILED, errors.EXIT_CONFIG, errors.EXIT_STOPPED) == (0, 1, 2, 75)
    assert {e.__name__: e.exit_code for e in errors.TrainkitError.__subclasses__()} == {
        "ConfigError": 2,
        "CheckpointError": 1,
        "CorruptError": 1,
        "Fenced": 1,
        "TooManyBadSteps": 1,
        "StoppedOnRequest": 75,
    }


def test_the_commands() -> None:
    assert list(COMMANDS) == [
        "ls",
        "validate",
        "config",
        "verify",
        "profile",
        "env",
        "doctor",
        "checkpoint",
        "audit",
        "sweep",
        "top",
        "report",
        "runs",
        "diff",
        "slurm",
        "ray",
        "jobs",
        "completion",
        "mlflow",
        "promote",
        "plan",
    ]
