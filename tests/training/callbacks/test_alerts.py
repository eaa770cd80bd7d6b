"""Alerts: when they are sent, and what reaches W&B."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import torch

from conftest import wait_until
from igpt.training.callbacks import alerts
from igpt.training.callbacks.alerts import Alerts, Watchdog
from igpt.training.callbacks.stop_on_nan import NotFiniteError


class Sent:
    """Takes the place of W&B."""

    def __init__(self, monkeypatch):
        self.alerts = []
        monkeypatch.setattr(alerts, "send_alert", lambda trainer, *alert: self.alerts.append(alert))


def test_low_mfu_is_an_alert_when_it_begins(monkeypatch, tmp_path):
    sent, callback = Sent(monkeypatch), Alerts(str(tmp_path), spike=None, low_mfu=0.2)
    measured = [0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1]
    for step, mfu in enumerate(measured, 1):
        trainer = SimpleNamespace(
            global_step=step, log_every_n_steps=1, accumulate_grad_batches=1, is_global_zero=True,
            callback_metrics={alerts.MFU: torch.tensor(mfu)},
        )  # fmt: skip
        callback.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, None, 0)
    assert [text.partition(" at ")[2] for _, text, _ in sent.alerts] == ["step 6, below 0.2.", "step 11, below 0.2."]


def test_a_loss_that_is_not_finite_is_an_alert_and_other_errors_are_none(monkeypatch, tmp_path):
    sent, callback = Sent(monkeypatch), Alerts(str(tmp_path))
    for error in (NotFiniteError("The loss became NaN."), ValueError("another")):
        callback.on_exception(SimpleNamespace(), None, error)
    assert sent.alerts == [("Loss is not finite", "The loss became NaN.", "ERROR")]


def test_the_watchdog_reports_once_for_each_time_without_progress():
    reports = []
    dog = Watchdog(0.05)
    dog.start(reports.append)
    wait_until(lambda: reports)
    dog.progress()
    wait_until(lambda: len(reports) == 2)
    dog.stop()
    wait_until(lambda: not any(thread.name == "igpt-watchdog" for thread in threading.enumerate()))
    assert len(reports) == 2
    assert "for 50 ms" in reports[0]


OFFLINE = """
from types import SimpleNamespace
from igpt.training.callbacks.alerts import send
from igpt.training.loggers.wandb_process import finish_wandb
from igpt.training.loggers.wandb_tracker import WandbTracker
trainer = SimpleNamespace(loggers=[WandbTracker(".", offline=True)])
send(trainer, "Loss spike", "It is high.")
finish_wandb()
"""


def test_an_offline_run_keeps_its_alerts(tmp_path):
    subprocess.run([sys.executable, "-c", OFFLINE], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"Loss spike" in content
    assert b"It is high." in content
