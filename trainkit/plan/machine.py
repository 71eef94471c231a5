"""The machines that a run is planned for: conf/cluster/KIND.yaml, and `here`, measured by `trainkit plan --calibrate`.

cluster=8xh100     8 devices of that kind; more than a node has are nodes
cluster=h100       one node
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Gt, Le
from pydantic import TypeAdapter, ValidationError

from trainkit.cache import cache_folder
from trainkit.config.bundle import components
from trainkit.config.suggest import suggest
from trainkit.errors import ConfigError, Problem
from trainkit.protocols import Cluster, Precision
from trainkit.runfolder import replace_text

Positive = Annotated[float, Gt(0)]
WORD = re.compile(r"(?:(?P<count>[1-9]\d*)x)?(?P<kind>\w+)")
HERE = "here"
GIGA = 1e9


@dataclass(frozen=True, kw_only=True)
class Link:
    """Between two ranks: GB/s that each can send, and microseconds until the first byte is there."""

    gbps: Positive
    us: Positive


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Of one kind; see conf/cluster/h100.yaml for the keys. Figures are of one device, in decimal units."""

    per_node: Annotated[int, Gt(0)]
    memory_gb: Positive
    tflops: dict[Precision, Positive]
    attained: Annotated[float, Gt(0), Le(1)]
    memory_gbps: Positive
    node: Link
    network: Link
    call_us: Positive
    overlaps: bool


@dataclass(frozen=True, kw_only=True)
class Site:
    """`ranks` devices of a machine, as `word` says it."""

    word: str
    machine: Machine
    ranks: int

    @property
    def hosts(self) -> int:
        return -(-self.ranks // self.machine.per_node)

    def cluster(self) -> Cluster:
        """What a launcher would say of it."""
        each = min(self.ranks, self.machine.per_node)
        return Cluster(hosts=self.hosts, ranks=self.ranks, gpus=each, cores=each)


def site(word: str) -> Site:
    """What `cluster=WORD` means. Raises ConfigError."""
    found = WORD.fullmatch(word)
    if found is None:
        raise ConfigError([_refused(word, "is no COUNTxKIND", "for example 8xh100")])
    kinds = sorted({*components("cluster"), HERE})
    if found["kind"] not in kinds:
        told = f"there is no such machine; there are {', '.join(kinds)}"
        raise ConfigError([_refused(word, told, suggest(found["kind"], kinds))])
    machine = _measured(word) if found["kind"] == HERE else _described(word, components("cluster")[found["kind"]])
    ranks = int(found["count"] or machine.per_node)
    if ranks > machine.per_node and ranks % machine.per_node:
        told = f"a node has {machine.per_node} of them, and {ranks} are no whole nodes"
        lower = ranks - ranks % machine.per_node
        raise ConfigError([_refused(word, told, f"{lower} or {lower + machine.per_node}")])
    return Site(word=word, machine=machine, ranks=ranks)


def keep(machine: Machine) -> Path:
    """Store it as the one that is here."""
    replace_text(_file(), json.dumps(asdict(machine), indent=1))
    return _file()


def _file() -> Path:
    return cache_folder() / "cluster-here.json"


def _measured(word: str) -> Machine:
    if not _file().exists():
        raise ConfigError([_refused(word, "this machine is not measured yet", "trainkit plan --calibrate does it")])
    return _machine(word, json.loads(_file().read_text()), _file())


def _described(word: str, path: Path) -> Machine:
    return _machine(word, yaml.safe_load(path.read_text()), path)


def _machine(word: str, keys: Any, path: Path) -> Machine:
    try:
        return TypeAdapter(Machine).validate_python(keys)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise ConfigError([_refused(word, f"{path} does not describe a machine: {wrong}", "")]) from error


def _refused(word: str, told: str, hint: str) -> Problem:
    return Problem("cluster", word, told, hint)
