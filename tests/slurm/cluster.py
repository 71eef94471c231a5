"""A real Slurm of several nodes on this machine, for as long as a `with` lasts.

As root every node is a machine of its own as far as Linux can make one: network, host name, processes, /dev/shm. So a
node can lose its power (`off`), its cable (`cut`) or its slurmd. Without root the nodes are slurmds on ports of this
machine, and these three are not there (`Cluster.apart` is false). No systemd, cgroups or database, nothing in /etc.

    python -m tests.slurm.cluster COMMAND ...      run a command, such as bash, against one
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "ip")
PACKAGES = "slurm-wlm munge iproute2"
START_S = 30.0
USABLE = {"idle", "alloc", "mix", "comp", "plnd"}

CONFIG = """\
ClusterName=test
SlurmctldHost={host}({controller})
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job has to wait. 5 is the least; below it Slurm silently takes 120.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobs.txt
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_resolution=1
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=10
TCPTimeout=2
MessageTimeout=5
BatchStartTimeout=10
InactiveLimit=0
KillWait=10
WaitTime=0
MinJobAge=300
JobRequeue=1
MaxArraySize=1001
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=node[1-{nodes}] {addresses} CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=5 PreemptMode=OFF MaxTime=INFINITE DefaultTime=30
PartitionName=spot Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 MaxTime=INFINITE DefaultTime=30
PartitionName=urgent Nodes=ALL PriorityTier=9 PreemptMode=OFF MaxTime=INFINITE DefaultTime=30
"""


def missing() -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool, path=_path()) is None]


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def may_part() -> bool:
    """Whether nodes may be machines of their own here."""
    if os.getuid() != 0:
        return False
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "true"], capture_output=True)
    return tried.returncode == 0


class Cluster:
    """`nodes` nodes, node1 and so on. `environment` points Slurm's commands at it."""

    def __init__(self, nodes: int = 3, cpus: int = 8, *, folder: Path) -> None:
        self.apart = may_part()
        self.names = [f"node{number}" for number in range(1, nodes + 1)]
        self.folder, self.cpus, self._daemons = folder, cpus, dict[str, subprocess.Popen[bytes]]()
        self._cut: set[str] = set()
        self._slurmds: set[str] = set()  # nodes that have lost theirs
        lot = secrets.randbelow(2**16)  # several clusters may be up at once
        self._bridge = f"tk{lot:04x}"
        self._net = f"10.{200 + lot % 50}.{lot // 50 % 250 + 1}"
        self.environment = {**os.environ, "PATH": _path(), "SLURM_CONF": str(self.folder / "slurm.conf")}

    def __enter__(self) -> Cluster:
        try:
            self._configure()
            self._start_munge()
            if self.apart:
                self._ip("link", "add", self._bridge, "type", "bridge")
                self._ip("address", "add", f"{self._net}.1/24", "dev", self._bridge)
                self._ip("link", "set", self._bridge, "up")
            self.start_controller()
            for name in self.names:
                self.on(name)
            self.until_usable(self.names)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything, jobs included."""
        if not self.apart and "slurmctld" in self._daemons:
            self.cancel_all()
        for name in list(self._daemons):
            self._end(name)
        if self.apart:
            subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)
        for process in _of_jobs(self.folder / "slurm.conf"):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # ------------------------------------------------------------------------------------------ asking

    def run(self, *words: str, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
        """A command on the machine that is not a node: where a person logs in."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, **options)  # type: ignore[call-overload]
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done  # type: ignore[no-any-return]

    def states(self) -> dict[str, str]:
        """State of every node as sinfo tells it."""
        said = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False).stdout.split()
        return dict(zip(said[::2], said[1::2], strict=True))

    def until_usable(self, names: Sequence[str]) -> None:
        until = time.monotonic() + START_S
        while not all(self.states().get(name) in USABLE for name in names):
            assert time.monotonic() < until, f"not every node came up: {self.states()}; see {self.folder}/log"
            time.sleep(0.05)

    def job(self, number: str) -> Mapping[str, str]:
        """What the controller knows of a job; nothing once it has forgotten it."""
        said = self.run("scontrol", "-o", "show", "job", number, check=False).stdout.splitlines()
        return dict(word.split("=", 1) for word in said[-1].split() if "=" in word) if said else {}

    def nodes_of(self, number: str) -> list[str]:
        """Where a job runs; its batch script on the first."""
        return self.run("scontrol", "show", "hostnames", self.job(number)["NodeList"]).stdout.split()

    def until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, f"it never happened: {what}; {self.run('squeue', check=False).stdout}"
            time.sleep(0.1)

    def ended(self, number: str, seconds: float = 60.0) -> Mapping[str, str]:
        """The end of a job, as the controller tells it; it may run several times before."""
        ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
        self.until(lambda: self.job(number).get("JobState", "") in ends, f"job {number} ends", seconds)
        return self.job(number)

    # ------------------------------------------------------------------------------------------ faults

    def cancel_all(self) -> None:
        """End every job, and wait until none is left."""
        self.run("scancel", "--user", self._user(), "--full", "--signal=KILL", check=False)
        self.run("scancel", "--user", self._user(), check=False)
        self.until(lambda: not self.run("squeue", "-h", check=False).stdout.strip(), "no job is left")

    def restore(self) -> None:
        """Whole, and without jobs: as it was at the start."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for name in self.names:
            if name in self._cut:  # Slurm is slow to look again at a node that it has missed; a new slurmd calls it
                self.off(name)
            self.on(name)
        for name in self._slurmds & {*self._daemons}:
            os.kill(self._init(name), signal.SIGUSR1)
        self._cut.clear()
        self._slurmds.clear()
        self.cancel_all()
        for name in [name for name, state in self.states().items() if state.startswith("drain")]:
            self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.until_usable(self.names)

    def on(self, name: str) -> None:
        """Switch a node on."""
        if name in self._daemons:
            return
        if not self.apart:
            self._daemon(name, "slurmd", "-D", "-N", name)
            return
        number = self.names.index(name) + 1
        apart = ("unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        address = f"{self._net}.{number + 10}/24"
        self._daemon(
            name,
            *(*apart, "bash", str(Path(__file__).with_name("node.sh"))),
            *(name, address, f"{self._net}.1", str(self.folder)),
        )
        self._ip(
            "link", "add", self._cable(name), "type", "veth", "peer", "name", "eth0", "netns", str(self._init(name))
        )
        self._ip("link", "set", self._cable(name), "master", self._bridge, "up")

    def off(self, name: str) -> None:
        """Cut its power: silently, no connection is closed."""
        assert self.apart
        self._ip("link", "del", self._cable(name))
        self._end(name)

    def cut(self, name: str) -> None:
        """Pull its network cable; what runs on it goes on."""
        self._cut.add(name)
        self._ip("link", "set", self._cable(name), "down")

    def kill_slurmd(self, name: str) -> None:
        """What runs on the node goes on; `restore` starts another."""
        assert self.apart
        self._slurmds.add(name)
        for process in psutil.Process(self._init(name)).children():
            if process.name() == "slurmd":
                process.kill()

    def start_controller(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D")

    def stop_controller(self) -> None:
        """In good order: one that is killed forgets what has happened in its last seconds."""
        self._daemons["slurmctld"].terminate()
        self._daemons["slurmctld"].wait()
        self._end("slurmctld")

    # ---------------------------------------------------------------------------------------- the parts

    def _configure(self) -> None:
        for part in ("munge", "log", "state", "spool", *(f"spool/{name}" for name in self.names)):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        host, controller = socket.gethostname().split(".")[0], f"{self._net}.1" if self.apart else "127.0.0.1"
        ports = _free_ports(1 + len(self.names))
        key = self.folder / "munge/key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        last = len(self.names)
        own = [f"{self._net}.{n + 10}" if self.apart else "127.0.0.1" for n in range(1, last + 1)]
        hosts = ["127.0.0.1 localhost", f"{controller} {host}"]
        hosts += [f"{address} {name}" for address, name in zip(own, self.names, strict=True)]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        (self.folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
        # slurmd 22.05 ends if it cannot tell which kind of cgroup there is, though nothing here uses any.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        doors = ",".join(map(str, ports[1:]))
        addresses = (
            f"NodeAddr={self._net}.[11-{last + 10}] Port={ports[1]}"
            if self.apart
            else f"NodeHostname={host} NodeAddr=127.0.0.1 Port=[{doors}]"
        )
        text = CONFIG.format(
            host=host,
            controller=controller,
            port=ports[0],
            user=self._user(),
            folder=self.folder,
            nodes=last,
            addresses=addresses,
            cpus=self.cpus,
            memory=psutil.virtual_memory().total >> 20,
        )
        (self.folder / "slurm.conf").write_text(text)

    def _user(self) -> str:
        return pwd.getpwuid(os.getuid()).pw_name

    def _start_munge(self) -> None:
        door = self.folder / "munge/socket"
        options = [
            f"--{name}={self.folder}/munge/{name.split('-')[0]}" for name in ("key-file", "pid-file", "log-file")
        ]
        options += [f"--seed-file={self.folder}/munge/seed", f"--socket={door}"]
        self._daemon("munged", "munged", "--foreground", "--force", *options)  # --force: any folder will do
        until = time.monotonic() + START_S
        while subprocess.run(["munge", "-S", str(door), "-n"], capture_output=True).returncode:
            assert time.monotonic() < until, f"munged does not answer; see {self.folder}/log"
            time.sleep(0.02)

    def _daemon(self, name: str, *words: str) -> None:
        """A process that dies with this one, whatever becomes of it."""
        with (self.folder / f"log/{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _end(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def _init(self, name: str) -> int:
        """Pid 1 of a node, as it is seen from here."""
        until = time.monotonic() + START_S
        while not (children := psutil.Process(self._daemons[name].pid).children()):
            assert time.monotonic() < until, f"{name} did not start; see {self.folder}/log"
            time.sleep(0.01)
        return children[0].pid

    def _cable(self, name: str) -> str:
        return f"{self._bridge}n{self.names.index(name) + 1}"

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, env=self.environment)


def _free_ports(count: int) -> list[int]:
    doors = [socket.create_server(("", 0)) for _ in range(count)]
    ports = [door.getsockname()[1] for door in doors]
    for door in doors:
        door.close()
    return ports


def _of_jobs(configuration: Path) -> list[psutil.Process]:
    """What jobs have left running: it carries the cluster's SLURM_CONF."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            around = process.environ()
            if around.get("SLURM_CONF") == str(configuration) and "SLURM_JOB_ID" in around:
                found.append(process)
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="slurm-") as home, Cluster(folder=Path(home)) as it:
        raise SystemExit(subprocess.run(sys.argv[1:] or ["bash"], env=it.environment).returncode)
