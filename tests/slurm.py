"""A real Slurm for tests: two nodes on this machine, in a temporary folder, gone afterwards.

Its daemons have namespaces of their own: a network, and processes that all end with the first one,
as do those of jobs.
"""

import os
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from helpers import captured, environment, wait_until

WITH_SLURM = "slurm" in os.environ.get("HARNESS_TESTS_REQUIRE", "")
needs_slurm = pytest.mark.skipif(not WITH_SLURM, reason="minutes; HARNESS_TESTS_REQUIRE=slurm")

# Nodes may have more cores than this machine. A job that is put back waits for cred_expire.
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
FirstJobId={job}
SlurmUser=root
AuthInfo=cred_expire=30
StateSaveLocation={folder}
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
KillWait=5
MailProg=/bin/true
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=6819 CPUs=8
PartitionName=all Nodes=ALL Default=YES
"""
# Slurm resolves nothing, not even 127.0.0.1, where that is the only address. The first process
# waits for the end of its input, the pipe to the tests.
DAEMONS = """
exec > log 2>&1
ip link set lo up
ip address add 192.0.2.1/32 dev lo
printf '127.0.0.1 n1 n2\n' | cat /etc/hosts - > hosts
mount --bind hosts /etc/hosts
mount -t tmpfs none /run
mkdir n1 n2 /run/munge
(umask 077; head -c 128 /dev/urandom > key)
munged --foreground --force --key-file="$PWD/key" --seed-file="$PWD/seed" --log-file="$PWD/munged" &
until [ -S /run/munge/munge.socket.2 ]; do sleep 0.1; done
slurmctld -D &
slurmd -D -N n1 &
slurmd -D -N n2 &
read -r
"""


class Slurm:
    """A cluster: `with Slurm() as slurm: slurm.ask("sinfo")`."""

    def __init__(self) -> None:
        # Without the variables of a Slurm job that may run the tests.
        self.env = {k: v for k, v in environment().items() if not k.startswith(("SLURM", "SBATCH"))}
        self.env["PATH"] += ":/usr/sbin"
        for name in ("ip", "munged", "slurmctld", "slurmd"):
            if not shutil.which(name, path=self.env["PATH"]) or os.geteuid() != 0:
                pytest.fail(f"no {name} (apt-get install slurm-wlm munge iproute2), or not root")
        self.folder = Path(tempfile.mkdtemp(prefix="harness-slurm-"))
        self.env["SLURM_CONF"] = str(self.folder / "slurm.conf")
        self.daemons: set[int] = set()
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=self.folder,
                host=socket.gethostname(),
                job=random.randrange(10**6, 10**7),  # ports and folder of Ray derive from it
            )
        )

    def __enter__(self) -> "Slurm":
        space = ["unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
        command, pipe = [*space, "bash", "-euc", DAEMONS], subprocess.PIPE
        self.first = subprocess.Popen(command, cwd=self.folder, env=self.env, stdin=pipe)
        if not wait_until(lambda: self.ask("sinfo", "-hNo", "%T").split() == ["idle"] * 2, 60):
            log = (self.folder / "log").read_text()
            self.__exit__()
            pytest.fail(log)
        self.daemons = set(self.processes())
        return self

    def __exit__(self, *_: object) -> None:
        self.first.communicate()
        shutil.rmtree(self.folder)

    def ask(self, *command: str, **env: str) -> str:
        """Return what one of Slurm's commands says."""
        inside = ("nsenter", f"--target={self.first.pid}", "--net", "--mount")
        return captured([*inside, *command], env=self.env | env).stdout.strip()

    def show(self, job: str, name: str) -> str:
        """Return a field of `scontrol show job`."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.partition("=")[::2] for word in words).get(name, "")

    def processes(self) -> dict[int, str]:
        """Return pid -> command line of all that jobs have started, on both nodes."""
        space = os.readlink(f"/proc/{self.first.pid}/ns/pid_for_children")
        processes = {}
        for pid in {int(p.name) for p in Path("/proc").glob("[0-9]*")} - self.daemons:
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") == space:
                    processes[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended
                continue
        return processes
