"""One process at a time trains a run, or sweeps into a folder: a file there says which."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from igpt.cluster.slurm import ENDED, job_state
from igpt.errors import RunTakenError


@dataclass(frozen=True)
class Owner:
    """A process, so that another one, perhaps on another host, can tell whether it is still there."""

    host: str
    process: int
    started: str | None  # in the kernel's words, since the number of a process is given again
    since: str
    namespace: str | None = None  # in which process numbers are given: containers on one host each have their own
    cluster: str | None = None  # SLURM's name of it
    job: str | None = None  # SLURM's, which comes back under the same number when it is requeued
    restarts: int = 0

    @classmethod
    def here(cls) -> Owner:
        """The process that asks."""
        return cls(
            host=socket.gethostname(),
            process=os.getpid(),
            started=start_of(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            namespace=process_namespace(),
            cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            job=os.environ.get("SLURM_JOB_ID"),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )

    def is_gone(self, seen_from: Owner) -> bool:
        """Whether the process is known to have ended. Elsewhere, SLURM may know it of the job."""
        if (self.host, self.namespace) == (seen_from.host, seen_from.namespace):
            return not is_alive(self.process) or start_of(self.process) not in (None, self.started)
        if self.job is None or self.cluster != seen_from.cluster:
            return False
        if self.job == seen_from.job:
            return self.restarts < seen_from.restarts  # it was an earlier start of this job
        return job_state(self.job) in ENDED


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock `file` inside of this block; one that a process left behind when it died is taken over.

    Raises :class:`RunTakenError` if another process holds it, or may hold it.
    """
    me = Owner.here()
    while not _create(file, me):
        owner = _read(file)
        if owner is None and not file.exists():
            continue  # it has ended meanwhile
        if owner is None or not owner.is_gone(seen_from=me):
            who = f"process {owner.process} on {owner.host}, since {owner.since}" if owner else "another process"
            raise RunTakenError(
                f"{file.parent} is in use by {who}; wait for its end, or delete {file} if that process is gone."
            )
        _take_away(file, owner)
    try:
        yield
    finally:
        if _read(file) == me:
            file.unlink(missing_ok=True)


def _create(file: Path, owner: Owner) -> bool:
    """Create the lock; False if there is one. Creating exclusively holds on network file systems, too."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        file.write_text(json.dumps(asdict(owner), indent=2) + "\n")
    except BaseException:  # a full disk
        file.unlink(missing_ok=True)
        raise
    return True


def _read(file: Path) -> Owner | None:
    """Who holds a lock; None if that cannot be told, for example since it is just being written."""
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _take_away(file: Path, owner: Owner) -> None:
    """Remove the lock of a process that is gone, unless another process was quicker."""
    with suppress(FileNotFoundError), open(file) as lock:
        with suppress(OSError):  # a file system without such locks
            fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time looks again, and removes what it has looked at
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()) and _read(file) == owner:
            file.unlink()


def process_namespace() -> str | None:
    """The kernel's name of the namespace of process numbers that this process is in; None where there are none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def is_alive(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def start_of(process: int) -> str | None:
    """When a process of this machine started, in ticks of the kernel; None if that is not to be seen (in /proc)."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if state in "ZX" else fields[18]  # field 22 of proc(5); Z: the parent has not asked for its status
