"""A real SLURM of three nodes on this machine, for tests; as a script it starts one to try commands by hand.

    python tests/slurm_cluster.py FOLDER    # in another shell: export SLURM_CONF=FOLDER/slurm.conf; sinfo

It needs root and Debian's packages slurm-wlm and munge, and writes only to its folder. The folder's path must be short,
because that of a socket has at most 107 characters. The nodes are addresses of this machine, so they need no entry in
/etc/hosts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sinfo")

NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2
MpiDefault=none
"""


def why_not() -> str:
    """Why SLURM cannot be started here; empty if it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "starting SLURM needs root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"no {missing[0]}: install Debian's slurm-wlm and munge" if missing else ""


class Cluster:
    """Context with SLURM running; its jobs end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        foreign = ("SLURM", "LFW_ROOT")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.environment = environment | {"SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        self._ending = ExitStack()

    def __enter__(self) -> Cluster:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        host, ports = socket.gethostname().partition(".")[0], free_ports(1 + len(NODES))
        nodes = "".join(
            f"NodeName={node} NodeHostname={host} NodeAddr={node} Port={port} CPUs=1 State=UNKNOWN\n"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        text = CONFIGURATION.format(host=host, ports=ports, folder=self.folder)
        text += f"{nodes}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
        (self.folder / "slurm.conf").write_text(text)
        key, door = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        places = [f"--{what}-file={self.folder}/munge.{what}" for what in ("pid", "log", "seed")]
        with self._ending:
            self._ending.callback(self._end)
            self._start("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={door}", *places)
            wait_until(door.exists, 20, "munged has no socket")
            self._start("slurmctld", "-D", "-c")
            for node in NODES:
                self._start(node, "-D", "-N", node, program="slurmd")
            wait_until(lambda: self.nodes("idle") == list(NODES), 60, "the nodes are not idle")
            self._ending = self._ending.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.SubprocessError):
            self.ask("scancel", "--user=root")
            wait_until(lambda: not self.ask("squeue", "-h"), 60, "jobs are left")
        self._ending.close()

    def ask(self, *command: str) -> str:
        """The output of one of SLURM's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise subprocess.SubprocessError(f"{shlex.join(command)}: {done.stderr}")
        return done.stdout.strip()

    def nodes(self, state: str) -> list[str]:
        """The nodes in a state."""
        with suppress(subprocess.SubprocessError):  # slurmctld does not answer yet
            return sorted(self.ask("sinfo", "-h", "-N", "-o", "%N", "-t", state).split())
        return []

    def submit(self, folder: Path, name: str, command: str, *options: str) -> str:
        """Queue a script with one command; returns the job's number. The output goes to FOLDER/NAME.txt."""
        script = folder / f"{name}.sh"
        script.write_text(f"#!/bin/bash\n{command}\n")
        where = [f"--chdir={folder}", f"--output={folder}/{name}.txt", "--open-mode=append"]
        return self.ask("sbatch", "--parsable", f"--job-name={name}", *where, *options, str(script))

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol`` says of a job, such as JobState."""
        words = self.ask("scontrol", "--oneliner", "show", "job", number).split()
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def wait_for(self, number: str, state: str, seconds: float = 120, **also: str) -> dict[str, str]:
        """Wait until a job has a state; returns what ``scontrol`` says of it."""
        wanted = {"JobState": state, **also}
        wait_until(lambda: wanted.items() <= self.job(number).items(), seconds, f"job {number} is not {wanted}")
        return self.job(number)

    def start_now(self, number: str) -> None:
        """Let a job that is queued again start without the two minutes that SLURM waits, and give it time to finish."""
        self.wait_for(number, "PENDING", Reason="BeginTime")
        self.ask("scontrol", "update", f"job={number}", "StartTime=now", "TimeLimit=10")

    def kill_node(self, node: str) -> None:
        """Kill a node's slurmd and all processes of its jobs, as if the machine had lost its power."""
        self._programs[node].kill()
        marks = {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if marks <= set((process / "environ").read_text(errors="replace").split("\0")):
                    parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                    if (Path("/proc") / parent / "comm").read_text().startswith("slurmstepd"):
                        os.kill(int(parent), signal.SIGKILL)
                    os.kill(int(process.name), signal.SIGKILL)

    def _start(self, name: str, *arguments: str, program: str | None = None) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._programs[name] = subprocess.Popen(
                [program or name, *arguments], env=self.environment, stdout=output, stderr=output, cwd=self.folder,
                start_new_session=True,
            )  # fmt: skip

    def _end(self) -> None:
        for program in reversed(self._programs.values()):
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(20)
            program.kill()


def free_ports(count: int) -> list[int]:
    """Ports that no program uses."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in held:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in held]


def wait_until(condition: Callable[[], object], seconds: float, otherwise: str) -> None:
    """Wait for a condition; fails with a reason."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"error: {reason}")
    with Cluster(Path(sys.argv[1])) as cluster, suppress(KeyboardInterrupt):
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}\nCtrl-C ends it", flush=True)
        signal.pause()
