"""A console that disappears, or cannot show a character, never ends a command; tables are plain text."""

import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from conftest import SMALL
from igpt.console import TolerantStream, table_text, tolerant_console
from igpt.run_directory import RunDirectory

RECIPE = (*SMALL, "trainer=cpu", "callbacks=null", "trainer.val_check_interval=4", "save_every=2", "hydra.run.dir=run")
SCRIPT = Path(sys.executable).with_name("igpt-train")


def test_what_a_closed_pipe_cannot_take_is_dropped(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr("sys.stdout", os.fdopen(writer, "w"))
    os.close(reader)
    with tolerant_console():
        for _ in range(3):
            print("nobody reads this", flush=True)
        print("nor this")  # in the buffer until the end
    sys.stdout.close()


def test_a_terminal_that_is_gone_and_a_full_disk_are_no_error():
    class Gone(io.StringIO):
        encoding = "utf-8"

        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    stream = TolerantStream(Gone())
    assert stream.write("text") == 4
    stream.flush()


def test_a_signal_may_speak_amid_a_line():
    class Busy(io.StringIO):
        encoding = "utf-8"

        def write(self, text):
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    TolerantStream(Busy()).write("SIGTERM: stopping after this step")


def test_characters_that_a_console_does_not_know_are_escaped():
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as plain:
        stream = TolerantStream(plain)
        stream.write("step 1 of 2 \N{RIGHTWARDS ARROW} caf\N{LATIN SMALL LETTER E WITH ACUTE} \udcff")
        stream.flush()
        assert raw.getvalue() == rb"step 1 of 2 \u2192 caf\xe9 \udcff"


def test_training_whose_output_nobody_reads_any_more_goes_on(tmp_path):
    command = f"'{SCRIPT}' {' '.join(RECIPE)} trainer.max_steps=12 | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1
    assert result.returncode == 0
    assert RunDirectory(tmp_path / "run").summary.exists()
    assert RunDirectory(tmp_path / "run").last.exists()


@pytest.mark.parametrize("hangup", ["ends", "is ignored"])
def test_a_terminal_is_closed(tmp_path, hangup, terminal):
    """Training saves and ends, or continues if it was started by nohup."""
    ours, its = os.openpty()

    def in_this_terminal():
        fcntl.ioctl(its, termios.TIOCSCTTY)
        if hangup == "is ignored":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    command = [SCRIPT, *RECIPE, "trainer.max_steps=400", "trainer.val_check_interval=50", "data.num_workers=1"]
    process = subprocess.Popen(
        [*command, "trainer.max_steps=60"] if hangup == "is ignored" else command,
        cwd=tmp_path, stdin=its, stdout=its, stderr=its, start_new_session=True, preexec_fn=in_this_terminal,
    )  # fmt: skip
    os.close(its)
    shown = b""
    while b"Training in" not in shown:
        shown += os.read(ours, 1024)
    run = RunDirectory(tmp_path / "run")
    while not run.last.exists() and process.poll() is None:
        os.read(ours, 1024)
    os.close(ours)
    status = process.wait(timeout=300)
    assert run.last.exists()
    assert (status, run.summary.exists()) == ((130, False) if hangup == "ends" else (0, True))


def test_a_table_is_plain_aligned_text_with_every_value_in_full():
    path = "/runs/" + "very_long_name/" * 40
    text = table_text(["job", "changed", "run"], [["0", "data.augment=[red]", path], ["1", "a=:smile:,日本", ""]])
    assert text.splitlines() == [
        "job  changed             run",
        f"0    data.augment=[red]  {path}",
        "1    a=:smile:,日本",
    ]


def test_a_table_of_a_terminal_has_no_colors_and_is_as_wide_as_its_values(monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "20", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    assert table_text(["name", "value"], [["x" * 30, "1"]]) == f"name{' ' * 28}value\n{'x' * 30}  1"
