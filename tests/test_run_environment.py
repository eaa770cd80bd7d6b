"""environment.json: one entry per start of training."""

import json

import torch

from igpt.run_directory import RunDirectory
from igpt.run_environment import record_start


def test_training_records_code_packages_and_device(trained):
    (start,) = json.loads((trained / "environment.json").read_text())
    assert start["step"] == 0
    assert start["torch"] == torch.__version__
    assert start["device"]
    assert {"time", "commit", "host", "processes", "python", "igpt"} <= start.keys()


def test_each_resume_adds_a_start_and_a_new_run_begins_anew(tmp_path):
    run, device = RunDirectory(tmp_path), torch.device("cpu")
    for step, steps in ((0, [0]), (7, [0, 7]), (9, [0, 7, 9]), (0, [0])):
        record_start(run, step, device, processes=2)
        assert [start["step"] for start in json.loads(run.environment.read_text())] == steps


def test_a_damaged_file_does_not_keep_a_run_from_being_resumed(tmp_path):
    run = RunDirectory(tmp_path)
    run.environment.write_text('[{"step": 0')
    record_start(run, 7, torch.device("cpu"), processes=1)
    assert [start["step"] for start in json.loads(run.environment.read_text())] == [7]
