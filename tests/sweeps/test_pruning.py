"""Without access to its study a trial trains on, and a pruned trial stays pruned."""

from types import SimpleNamespace

import pytest

from igpt.errors import IgptError
from igpt.run_directory import RunDirectory
from igpt.sweeps.pruning import PruneTrial

optuna = pytest.importorskip("optuna")


@pytest.fixture
def begin(tmp_path):
    """Begin to train as a job of a search, which has the trial lr=0.5; gives the callback and the trainer."""

    def start(status="running"):
        run = RunDirectory(tmp_path / "sweep" / "0")
        run.path.mkdir(parents=True)
        run.note_job(status=status, overrides=["optim.lr=0.5"])
        storage = f"sqlite:///{tmp_path / 'sweep' / 'study.db'}"
        callback = PruneTrial(str(run.path), storage, "search", "loss", warmup=0, startup_trials=1)
        trainer = SimpleNamespace(
            is_global_zero=True, max_steps=10, global_step=5, sanity_checking=False, should_stop=False,
            callback_metrics={"loss": 2.0}, strategy=SimpleNamespace(broadcast=lambda answer: answer),
        )  # fmt: skip
        callback.on_train_start(trainer, None)
        return callback, trainer

    return start


def make_study(tmp_path):
    (tmp_path / "sweep").mkdir()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'sweep' / 'study.db'}", study_name="search")
    study.enqueue_trial({"optim.lr": 0.5})
    trial = study.ask()
    trial.suggest_float("optim.lr", 0, 1)
    return study, trial


def test_without_a_study_nothing_is_pruned_and_none_is_made(begin, tmp_path, caplog):
    callback, trainer = begin()
    callback.on_validation_end(trainer, None)
    assert not trainer.should_stop
    assert "is not accessible (there is no" in caplog.text
    assert not (tmp_path / "sweep" / "study.db").exists()


def test_a_trial_hears_of_each_validation(begin, tmp_path):
    _, trial = make_study(tmp_path)
    callback, trainer = begin()
    callback.on_validation_end(trainer, None)
    study = optuna.load_study("search", callback.storage)  # the one that made the trial reads its own memory
    assert study.trials[trial.number].intermediate_values == {5: 2.0}


def test_a_trial_that_was_given_up_does_not_end_its_training(begin, tmp_path, caplog):
    study, trial = make_study(tmp_path)
    callback, trainer = begin()
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    callback.on_validation_end(trainer, None)
    assert not trainer.should_stop
    assert "training continues" in caplog.text


def test_a_pruned_job_that_starts_again_trains_no_further(begin, tmp_path):
    make_study(tmp_path)
    _, trainer = begin("pruned")
    assert trainer.should_stop


def test_a_wrong_name_of_what_is_monitored_is_an_error(begin, tmp_path):
    make_study(tmp_path)
    callback, trainer = begin()
    trainer.callback_metrics = {}
    with pytest.raises(IgptError, match="monitor is 'loss', which no validation measures"):
        callback.on_validation_end(trainer, None)
