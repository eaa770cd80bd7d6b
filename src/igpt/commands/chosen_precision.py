"""The precision of a run whose configuration says `auto`."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from igpt.configuration.resume import resumes
from igpt.configuration.stored import configuration_of
from igpt.run_directory import RunDirectory

log = logging.getLogger(__name__)


def choose_precision(config: DictConfig, run: RunDirectory) -> None:
    """Replace `trainer.precision=auto` in the configuration, which is then stored, by the precision that it stands for.

    So a run keeps its precision, also if it is resumed on another machine. A command that is repeated takes the
    precision of the run in its directory; `run=DIR trainer.precision=auto` chooses again.
    """
    from igpt.training.native_precision import native_precision

    if config.trainer.precision != "auto":
        return
    if run.trained and run.config.exists() and not resumes():
        config.trainer.precision = configuration_of(run).trainer.precision
        return
    config.trainer.precision, reason = native_precision(config.trainer.accelerator)
    log.info("trainer.precision=auto is %s here: %s", config.trainer.precision, reason)
