"""A real SLURM on this machine for the duration of a test: munged, slurmctld and slurmd in a temporary directory."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CPUS = 4

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1,sched_min_interval=100000
MinJobAge=86400
FirstJobId={first_job}
ReturnToService=2
KillWait=5
SlurmdTimeout=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=60
PartitionName=high Nodes={host} MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
"""

# There is no accounting, so what submitit asks sacct for comes from the controller.
SACCT = """#!{python}
import re, subprocess
print("JobID|State|NodeList")
jobs = subprocess.run(["scontrol", "--oneliner", "show", "job"], capture_output=True, text=True).stdout
for line in jobs.splitlines():
    job = dict(re.findall(r"(\\w+)=(\\S*)", line))
    if not job.get("JobId"):
        continue
    name = job["JobId"]
    if "ArrayJobId" in job:
        name = job["ArrayJobId"] + "_" + job["ArrayTaskId"]
    print(f"{{name}}|{{job['JobState']}}|{{job.get('NodeList', '')}}")
"""


def missing() -> list[str]:
    """What is missing here for starting a cluster."""
    programs = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return programs if os.geteuid() == 0 else [*programs, "being root"]


class Cluster:
    """A running cluster: its commands, and the states of its jobs."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *command: str) -> None:
        """Start one of the cluster's daemons."""
        with open(self.folder / f"{command[0]}.out", "ab") as log:
            self.daemons[command[0]] = subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def start_node(self) -> None:
        """Start the node's daemon, and wait until the node is idle."""
        self.start("slurmd", "-D")
        wait_until(lambda: self.run("sinfo", "-h", "-o", "%T").strip() == "idle", "slurmd did not start", 60)

    def kill_node(self, job: str) -> None:
        """Simulate a power failure of the node that runs this job: kill its daemon and the processes of the job."""
        self.daemons["slurmd"].kill()
        self.daemons["slurmd"].wait()
        for process, *_ in list(processes(job)):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """The output of a command, which must succeed."""
        result = subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def submit(self, *arguments: str | Path, cwd: Path) -> str:
        """Run sbatch; the job ID."""
        return self.run("sbatch", "--parsable", *map(str, arguments), cwd=cwd).strip()

    def jobs(self) -> dict[str, dict[str, str]]:
        """Each job's fields, as scontrol names them."""
        lines = self.run("scontrol", "--oneliner", "show", "job").splitlines()
        jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
        return {job["JobId"]: job for job in jobs if "JobId" in job}

    def state(self, job: str) -> str:
        return self.jobs()[job]["JobState"]

    def restarts(self, job: str) -> int:
        return int(self.jobs()[job]["Restarts"])

    def wait(self, job: str, *states: str, seconds: float = 240) -> None:
        """Wait until the job is in one of the states."""
        try:
            wait_until(lambda: self.state(job) in states, f"job {job} did not get to {states}", seconds)
        except AssertionError as error:
            fields = self.jobs()[job]
            log = Path(fields.get("StdOut", os.devnull))
            text = log.read_text() if log.exists() else f"It has no log {log}"
            raise AssertionError(f"{error}: {fields}\n{text}") from None

    def preempt(self, cwd: Path, size: str = "--exclusive") -> None:
        """Preempt jobs: a short job of the higher partition takes the whole node, or as much of it as `size` says."""
        job = self.submit("--partition=high", size, "--output=/dev/null", "--wrap=sleep 1", cwd=cwd)
        self.wait(job, "COMPLETED", seconds=90)

    def process(self, job: str, rank: int) -> int:
        """The process of a rank of a running job."""
        wanted = {f"SLURM_PROCID={rank}".encode(), b"SLURM_STEP_ID=0"}
        for process, command, variables in processes(job):
            if (b"igpt-train" in command or b"submitit" in command) and b"srun" not in command and wanted <= variables:
                return process
        raise AssertionError(f"job {job} has no process of rank {rank}")


def processes(job: str) -> Iterator[tuple[int, bytes, set[bytes]]]:
    """The processes of a job on this machine, including slurmstepd: process ID, command, environment."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            variables = set((folder / "environ").read_bytes().split(b"\0"))
        except OSError:
            continue  # it has ended in the meantime
        if f"SLURM_JOB_ID={job}".encode() in variables or command.startswith(f"slurmstepd: [{job}.".encode()):
            yield int(folder.name), command, variables


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster of one node with 4 CPUs and the partitions `low` and `high`, which preempts it."""
    folder.mkdir(parents=True)
    (folder / "spool").mkdir()
    (folder / "state").mkdir()
    (folder / "bin").mkdir()
    sacct = folder / "bin" / "sacct"
    sacct.write_text(SACCT.format(python=sys.executable))
    sacct.chmod(0o755)
    port = free_port()
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(
            host=socket.gethostname().split(".")[0], folder=folder, cpus=CPUS, controller_port=port,
            node_port=free_port(), first_job=100 * port,  # job IDs of two clusters on this machine differ
        )
    )  # fmt: skip
    own = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SUBMITIT"))}
    environment = {
        **own,
        "SLURM_CONF": str(folder / "slurm.conf"),
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
    }
    running = Cluster(environment, folder)

    def answers(*command: str) -> bool:
        return subprocess.run(command, env=environment, capture_output=True).returncode == 0

    try:
        key = folder / "munge.key"
        subprocess.run(["mungekey", "--create", f"--keyfile={key}"], env=environment, check=True)
        key.chmod(stat.S_IRUSR | stat.S_IWUSR)
        running.start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder / 'munge.socket'}",
            f"--pid-file={folder / 'munged.pid'}", f"--seed-file={folder / 'munged.seed'}",
            f"--log-file={folder / 'munged.log'}",
        )  # fmt: skip
        wait_until(lambda: (folder / "munge.socket").exists(), "munged did not start", 20)
        running.start("slurmctld", "-D", "-c", "-i")
        wait_until(lambda: answers("scontrol", "ping"), "slurmctld did not start", 30)
        running.start_node()
        yield running
    finally:
        if "slurmd" in running.daemons:
            subprocess.run(["scancel", "--full", "--signal=KILL", "--user=root"], env=environment, capture_output=True)
            subprocess.run(["scancel", "--user=root"], env=environment, capture_output=True)
            time.sleep(1)
        for daemon in reversed(running.daemons.values()):
            daemon.terminate()
            daemon.wait(30)


def wait_until(condition: Callable[[], object], otherwise: str, seconds: float) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise)
        time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
