import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from igpt.run_directory import RunDirectory
from igpt.wandb_server import offline_reason
from offline_run import read_offline_run
from tracking_server import w_and_b_server


def test_offline_reasons(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    assert "no API key" in offline_reason()
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert "127.0.0.1 cannot be reached" in offline_reason()
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    assert "cannot be reached" in offline_reason()


class Refuses(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_that_answers_is_reached_whatever_it_says(key, monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        assert offline_reason() is None
        server.shutdown()


TRACK = """
import logging, os, wandb
from igpt.training.loggers.wandb_tracker import WandbTracker
logging.basicConfig(level=logging.INFO)
tracker = WandbTracker(run_dir=".", first_step=0, project="igpt")
tracker.log_metrics({"loss": 1.0}, 0)
wandb.finish()
assert "WANDB_MODE" not in os.environ  # the next job of a sweep finds out for itself
"""


def test_a_server_that_refuses_the_key_leaves_the_run_offline(key, monkeypatch, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        result = subprocess.run(
            [sys.executable, "-c", TRACK], cwd=tmp_path, capture_output=True, text=True, timeout=180
        )
        server.shutdown()
    assert result.returncode == 0, result.stderr
    assert f"so this run is logged offline; `wandb sync {tmp_path}/wandb/*run-*` uploads it" in result.stderr
    run_id = (tmp_path / "tracking_id.txt").read_text().strip()
    assert list(tmp_path.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"))


OUTCOMES = """
from pathlib import Path
from igpt.errors import IgptError
from igpt.cluster.signals import Interrupted
from igpt.training.loggers.wandb_process import finishing_wandb
from igpt.training.loggers.wandb_tracker import WandbTracker
outcomes = {"good": None, "bad": IgptError("no"), "broken": ZeroDivisionError(), "stopped": Interrupted()}
for again in ("", " again"):
    for name, error in outcomes.items():
        Path(name).mkdir(exist_ok=True)
        try:
            with finishing_wandb():
                tracker = WandbTracker(run_dir=name, first_step=0, project="igpt", name=name + again)
                tracker.log_metrics({"loss": 1.0}, 0)
                if error is not None and not again:
                    raise error
        except (IgptError, ZeroDivisionError, Interrupted):
            pass
"""


def test_a_run_ends_as_what_became_of_it_and_keeps_its_name(key, monkeypatch, tmp_path):
    with w_and_b_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        subprocess.run([sys.executable, "-c", OUTCOMES], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    runs = {run.settings["displayName"]: run for run in server.runs.values()}
    assert {name: run.exit_codes for name, run in runs.items()} == {
        "good": [0, 0], "bad": [1, 0], "broken": [1, 0], "stopped": [1, 0],
    }  # fmt: skip
    assert [name for name, run in runs.items() if run.preempting] == ["stopped"]


def test_a_server_that_says_nothing_is_not_waited_for(key, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert offline_reason(timeout=0.2) == "127.0.0.1 cannot be reached"


def test_an_address_that_is_none_is_not_reached(key, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:80x")
    assert offline_reason() == "127.0.0.1 cannot be reached"


def test_the_id_of_a_run_stays(tmp_path):
    for name, chosen in (("one", None), ("two", "chosen1")):
        run = RunDirectory(tmp_path / name)
        run.path.mkdir()
        first = run.tracking_id(chosen)
        assert first == (chosen or first)
        assert run.tracking_id() == run.tracking_id("another") == first


SERVICE_IS_KILLED = """
import os, signal, subprocess, time
from igpt.training.loggers.wandb_process import finish_wandb
from igpt.training.loggers.wandb_tracker import WandbTracker

tracker = WandbTracker(".", offline=True)
tracker.experiment
for service in subprocess.run(["pgrep", "-P", str(os.getpid()), "wandb-core"], capture_output=True).stdout.split():
    os.kill(int(service), signal.SIGTERM)
for step in range(1000):
    tracker.log_metrics({"x": 1.0}, step)
    if tracker.unusable:
        break
    time.sleep(0.05)
assert step < 999
tracker.log_summary({"x": 1.0})
tracker.send_alert("Loss spike", "It is high.", "WARN")
tracker.finalize("failed")
finish_wandb(exit_code=1, preempted=True)
"""


def test_the_end_of_w_and_b_s_service_ends_nothing_else(tmp_path):
    command = [sys.executable, "-c", SERVICE_IS_KILLED]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("W&B's service has ended") == 1


INHERITS = """
import os, subprocess, sys, wandb

wandb.setup()
if sys.argv[1] == "ended":
    inherited = dict(os.environ)
    wandb.teardown()
else:
    inherited = None
subprocess.run([sys.executable, "-c", sys.argv[2]], env=inherited, check=True)
"""
LOGS = """
from igpt.training.loggers.wandb_process import finish_wandb
from igpt.training.loggers.wandb_tracker import WandbTracker

tracker = WandbTracker(".", offline=True)
tracker.log_metrics({"x": 1.0}, 0)
finish_wandb()
"""


@pytest.mark.parametrize("service", ["ended", "runs"])
def test_the_service_of_a_parent_process_may_have_ended(tmp_path, service):
    command = [sys.executable, "-c", INHERITS, service, LOGS]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "W&B cannot log" not in result.stderr
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert read_offline_run(folder).values("x") == [(0, 1.0)]


RESUMES = """
import sys
from igpt.training.loggers.wandb_process import finish_wandb
from igpt.training.loggers.wandb_tracker import WandbTracker

first_step = int(sys.argv[1])
tracker = WandbTracker("run", first_step=first_step, project="igpt", name="run", tags=["a"])
for step, value in enumerate(map(float, sys.argv[2:]), first_step):
    tracker.log_metrics({"val/nats_per_token": value, "val/accuracy": value, "val/mine": value}, step)
finish_wandb()
"""


def test_the_summary_of_a_resumed_run_has_the_best_value_of_all_its_parts(key, monkeypatch, tmp_path):
    (tmp_path / "run").mkdir()
    with w_and_b_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for first_step, values in ((0, ("3", "1", "2")), (2, ("2.5", "2.75"))):
            command = [sys.executable, "-c", RESUMES, str(first_step), *values]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
            # The last row is of a step that is repeated.
            (tmp_path / "run" / "metrics.csv").write_text(
                "step,val/nats_per_token,val/accuracy\n0,3,3\n1,1,\n2,0.5,9\n"
            )
    (run,) = server.runs.values()
    assert run.summary["val/nats_per_token"] == {"min": 1}
    assert run.summary["val/accuracy"] == {"max": 3}
    assert run.summary["val/mine"] == 2.75  # nothing says which one is the better


BREAKS = """
import logging
import numpy as np, wandb
from PIL import Image
from igpt.evaluation.evaluator import Table
from igpt.training.loggers.wandb_process import finish_wandb
from igpt.training.loggers.wandb_tracker import WandbTracker

logging.basicConfig(level=logging.INFO)
tracker = WandbTracker(".", first_step=0, project="igpt", name="run")
Image.new("RGB", (8, 8)).save("image.png")
tracker.log_image("samples", ["image.png"], step=0)
tracker.log_rows("tables/likelihood", Table([{"nats": 1.0}], np.zeros((1, 8, 8, 3), np.uint8)), 0)

def full(*_, **__):
    raise OSError(28, "No space left on device")

kept, wandb.Image = wandb.Image, full
for step in range(3):
    tracker.log_image("samples", ["image.png"], step=step)
    tracker.log_rows("tables/likelihood", Table([{"nats": 1.0}], np.zeros((1, 8, 8, 3), np.uint8)), step)
    tracker.log_metrics({"train/loss": 1.0 + step}, step)
finish_wandb()
"""


def test_a_broken_upload_and_a_full_disk_are_one_warning_each(key, monkeypatch, tmp_path):
    with w_and_b_server() as server:
        server.refuses_files = True
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        command = [sys.executable, "-c", BREAKS]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("W&B: log_image failed ([Errno 28] No space left on device)") == 1
    assert result.stderr.count("W&B: log_rows failed ([Errno 28] No space left on device)") == 1
    (run,) = server.runs.values()
    assert run.exit_codes == [0]
    assert server.refused > 0
    assert [row["train/loss"] for row in run.history if "train/loss" in row] == [1.0, 2.0, 3.0]
    assert run.summary["train/loss"] == {"min": 1}
