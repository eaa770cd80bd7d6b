"""Waiting for jobs on SLURM, here for ones that do as a test says: whatever becomes of a job is a result."""

from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from hydra.core.utils import JobReturn, JobStatus

import igpt.configuration.resolvers  # noqa: F401  # conf/ needs them
from igpt.run_directory import read_job, write_job

pytest.importorskip("submitit")
from submitit.core.utils import FailedJobError, UncompletedJobError

from igpt.sweeps.slurm_jobs import NonRaisingJob


class Job:
    """Each time it is waited for, one of `ends`: an error, with whether it is the end of the job, or the results."""

    def __init__(self, folder, *ends):
        self.ends = list(ends)
        self.state = "NODE_FAIL"
        self.watcher = SimpleNamespace(clear=lambda: None)
        self.paths = SimpleNamespace(folder=folder, stdout=folder / "log.out")
        write_job(folder, status="pending", overrides=["seed=1"])

    def results(self):
        end, self.is_over = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    def done(self, force_check=False):
        assert force_check
        return self.is_over

    def task(self, _):
        return self


def test_a_job_that_comes_back_after_its_node_died_is_waited_for(tmp_path):
    result = [JobReturn()]
    lost = UncompletedJobError("has not produced any output")
    job = Job(tmp_path, (lost, False), (lost, False), (result, True))
    assert NonRaisingJob(job).results() is result
    assert read_job(tmp_path)["status"] == "pending"


@pytest.mark.parametrize("error", [UncompletedJobError("no output"), FailedJobError("a mistake")])
def test_a_job_that_failed_is_a_result_without_a_value(tmp_path, error):
    (returned,) = NonRaisingJob(Job(tmp_path, (error, True))).results()
    assert (returned.status, returned.return_value) == (JobStatus.COMPLETED, None)
    note = read_job(tmp_path)
    assert note["status"] == "failed"
    assert note["overrides"] == ["seed=1"]
    assert note["error"].startswith("SLURM ended it as NODE_FAIL; its log is")


@pytest.mark.parametrize(
    ("trainer", "gpus"), [(["trainer=cpu"], None), (["trainer=gpu"], 1), (["trainer=ddp", "trainer.devices=4"], 4)]
)
def test_a_job_requests_a_gpu_for_each_device_and_none_on_cpus(trainer, gpus):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose("train", ["hydra/launcher=slurm", *trainer], return_hydra_config=True)
    assert config.hydra.launcher.gpus_per_node == gpus
