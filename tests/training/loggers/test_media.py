"""What loggers other than W&B are given."""

import pytest
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from igpt.training.loggers.media import log_probe


def test_the_layers_of_a_probe_are_its_steps_in_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (4, 4)).save(tmp_path / "probe.png")
    rows = [{"features": "trained", "layer": layer, "test_accuracy": layer / 10} for layer in range(3)]
    logger = TensorBoardLogger(tmp_path, name="", version="events")
    log_probe(logger, rows, {}, tmp_path / "probe.png")
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("probe/trained/test_accuracy")]
    assert found == [(0, 0.0), (1, pytest.approx(0.1)), (2, pytest.approx(0.2))]
