"""Installing SLURM for the fault tests: only where it is missing, and only by root. These need no cluster."""

import subprocess

import install
import pytest
import slurm


@pytest.fixture
def commands(monkeypatch):
    """What would have been run; installing gives slurmd, but nobody the right to start it."""
    run = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: run.append([w for w in command if w[0] not in "-A"]))
    monkeypatch.setattr(install.shutil, "which", lambda name: f"/usr/bin/{name}")
    return run


def test_root_installs_what_is_missing(commands, monkeypatch):
    monkeypatch.setattr(install.os, "geteuid", lambda: 0)
    monkeypatch.setattr(slurm, "missing", lambda: [] if commands else ["slurmd"])
    install.main()
    assert commands == [["apt-get", "update"], ["apt-get", "install", "munge", "slurmctld", "slurmd", "slurm-client"]]
    install.main()
    assert len(commands) == 2


def test_others_are_told_what_to_do(commands, monkeypatch):
    monkeypatch.setattr(install.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(slurm, "missing", lambda: ["slurmd", "being root"])
    with pytest.raises(SystemExit) as caught:
        install.main()
    sentence = caught.value.code
    assert sentence.startswith(
        "No SLURM can be started here without slurmd, being root; be root, and install Debian's munge"
    )
    assert not commands
