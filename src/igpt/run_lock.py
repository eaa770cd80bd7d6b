"""Lock files: only one process at a time trains a run, probes it, or sweeps into a directory."""

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
    """A process, described so that another process, perhaps on another host, can tell whether it still runs."""

    host: str
    process: int
    started: str | None  # its start time in the kernel's ticks, since process IDs are reused
    since: str
    namespace: str | None = None  # the namespace of process IDs: each container has its own
    cluster: str | None = None  # the name of the SLURM cluster
    job: str | None = None  # the SLURM job ID; a requeued job keeps it
    restarts: int = 0

    @classmethod
    def here(cls) -> Owner:
        """The calling process."""
        return cls(
            host=socket.gethostname(),
            process=os.getpid(),
            started=start_time(os.getpid()),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            namespace=process_namespace(),
            cluster=os.environ.get("SLURM_CLUSTER_NAME"),
            job=os.environ.get("SLURM_JOB_ID"),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        )

    def is_gone(self, seen_from: Owner) -> bool:
        """Whether the process is known to have ended. On another host, only SLURM can know, by the process's job."""
        if (self.host, self.namespace) == (seen_from.host, seen_from.namespace):
            return not is_alive(self.process) or start_time(self.process) not in (None, self.started)
        if self.job is None or self.cluster != seen_from.cluster:
            return False
        if self.job == seen_from.job:
            return self.restarts < seen_from.restarts  # an earlier start of the same job
        return job_state(self.job) in ENDED


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock `file` within this block. The lock of a process that died is taken over.

    Raises :class:`RunTakenError` if another process holds the lock, or may hold it.
    """
    me = Owner.here()
    while not _create(file, me):
        owner = _read(file)
        if owner is None and not file.exists():
            continue  # released in the meantime
        if owner is None or not owner.is_gone(seen_from=me):
            who = f"process {owner.process} on {owner.host}, since {owner.since}" if owner else "another process"
            raise RunTakenError(
                f"{file.parent} is in use by {who}; wait until that process ends, or delete {file} if it has died."
            )
        _remove_stale(file, owner)
    try:
        yield
    finally:
        if _read(file) == me:
            file.unlink(missing_ok=True)


def is_held(file: Path) -> bool:
    """Whether a process holds the lock, or may hold it, as one on another host that cannot be checked."""
    owner = _read(file)
    return not owner.is_gone(seen_from=Owner.here()) if owner else file.exists()


def _create(file: Path, owner: Owner) -> bool:
    """Create the lock; False if it exists. Exclusive creation is atomic on network file systems, too."""
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
    """The owner of a lock; None if it cannot be read, for example because it is being written."""
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _remove_stale(file: Path, owner: Owner) -> None:
    """Remove the lock of a process that died, unless another process has already replaced it."""
    with suppress(FileNotFoundError), open(file) as lock:
        with suppress(OSError):  # the file system may not support flock
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time checks again and removes
        if os.path.samestat(os.fstat(lock.fileno()), file.stat()) and _read(file) == owner:
            file.unlink()


def process_namespace() -> str | None:
    """The kernel's name for this process's namespace of process IDs; None where there are no namespaces."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def is_alive(process: int) -> bool:
    """Whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    return True


def start_time(process: int) -> str | None:
    """The start time of a process of this machine, in the kernel's ticks; None without /proc; "ended" for a zombie."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if state in "ZX" else fields[18]  # field 22 of proc(5); Z is a zombie
