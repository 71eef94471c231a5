"""Settings for tests, without a configuration file."""

from __future__ import annotations

from typing import Any

from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import DecoderTask
from trainkit.launcher.local import Local as LocalLauncher
from trainkit.optimizer.adamw import AdamW
from trainkit.protocols import Task
from trainkit.schedule.cosine import Cosine
from trainkit.settings import (
    Anomaly,
    Checkpoint,
    DataSettings,
    Integrity,
    Recovery,
    Run,
    Settings,
    Straggler,
    System,
    Train,
    Watchdog,
)
from trainkit.tracker.none import NoTracker

TRAIN: dict[str, Any] = {
    "steps": 20,
    "epochs": None,
    "global_batch": 12,
    "micro_batch": 2,
    "seed": 7,
    "clip_norm": 0.5,
    "precision": "fp32",
    "device": "cpu",
    "log_every": 1,
    "eval_every": None,
    "patience": None,
    "ema": None,
    "activation_checkpointing": False,
    "compile": False,
}
CHECKPOINT: dict[str, Any] = {
    "every": None,
    "mtbf_hours": 24.0,
    "memory_every": None,
    "asynchronous": True,
    "max_failures": 2,
    "keep": 3,
    "keep_every": None,
    "metric": None,
    "mode": "min",
    "dir": None,
}


def make(
    folder: str,
    strategy: str = "local",
    ranks: int = 1,
    task: Task | None = None,
    checkpoint: dict[str, Any] | None = None,
    anomaly: dict[str, Any] | None = None,
    look_every: int | None = None,
    resume: Any = "auto",
    workers: int = 0,
    ledger: bool = True,
    **train: Any,
) -> Settings:
    return Settings(
        name="decoder",
        run=Run(dir=folder, max_hours=None, signals=("USR1", "USR2")),
        resume=resume,
        train=Train(**(TRAIN | train)),
        checkpoint=Checkpoint(**(CHECKPOINT | (checkpoint or {}))),
        data=DataSettings(ledger=ledger, workers=workers),
        anomaly=Anomaly(**({"spike": None, "patience": 3, "rollbacks": 2} | (anomaly or {}))),
        recovery=Recovery(killed=2, raised=2, hung=2, corrupt=2, repeats=2, pause_s=0.0, place=2, rest_s=600.0),
        watchdog=Watchdog(timeout=None, slow=1800.0),
        straggler=Straggler(every=look_every, times=2.0, looks=3),
        system=System(every=None),
        integrity=Integrity(every=None),
        optimizer=AdamW(lr=3e-3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1),
        schedule=Cosine(warmup=3, floor=0.1),
        strategy=STRATEGIES[strategy],
        launcher=LocalLauncher(ranks=ranks, spares=0, nodes=1, rendezvous=None, head=None, lost_s=45.0, wait_s=600.0),
        tracker=NoTracker(),
        recipe=task or DecoderTask(),
    )
