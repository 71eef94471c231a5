"""A recipe of one's own that does what a test tells it while it trains: the small decoder that all strategies know."""

from __future__ import annotations

from pathlib import Path

RECIPE = '''
"""Fetches samples, and does once what the file fault_RANK says."""

import math
import os
import time
from dataclasses import dataclass, replace

import torch

from tests.conformance.decoder import DecoderTask
from trainkit.checkpoint import plan


@dataclass(frozen=True, kw_only=True)
class Chaos(DecoderTask):
    def build_data(self):
        data = super().build_data()
        return replace(data, train=Faulty(data.train))

    def loss(self, output, targets):
        whole = super().loss(output, targets)
        return whole * targets["factor"] if "factor" in targets else whole


def write_late():
    """The next save of this rank stands still while the file late_RANK is there."""
    write, late = plan.write, f"late_{os.environ['RANK']}"

    def written(*what):
        plan.write = write
        open(late, "w").close()
        while os.path.exists(late):
            time.sleep(0.01)
        return write(*what)

    plan.write = written


class Faulty:
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def fetch(self, ids):
        batch, factor = self.source.fetch(ids), 1.0
        told = f"fault_{os.environ['RANK']}"
        if os.path.exists(told):
            with open(told) as file:
                fault = file.read()
            os.unlink(told)
            if fault == "slow":
                time.sleep(1.0)
            if fault == "nan":
                factor = math.nan
            if fault == "late":
                write_late()
        time.sleep(0.01)  # or the run would be over before it is caught
        return replace(batch, targets={**batch.targets, "factor": torch.tensor(factor)})
'''
YAML = """# @package _global_
recipe:
  _target_: recipes.chaos.Chaos
train:
  steps: 150
  global_batch: 12
  clip_norm: 0.5
  ema: 0.9
  device: cpu
optimizer:
  lr: 3.0e-3
checkpoint:
  every: 5
  keep: 2
data:
  ledger: true
recovery:
  killed: 20
  hung: 20
  raised: 20
  repeats: 20
  pause_s: 0.0
watchdog:
  timeout: 5.0
  slow: 40.0
"""
STEPS = 150
WORDS = ("recipe=chaos", "launcher.ranks=2", "tracker=none", "run.dir=run")


def made(folder: Path) -> Path:
    """A project in `folder`, where WORDS start a run."""
    for name, text in {"recipes/chaos.py": RECIPE, "conf/recipe/chaos.yaml": YAML}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
