"""The final report of a run: values and figures of its best checkpoint on the test split."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from igpt import figures
from igpt.data.datamodule import ImageDataModule
from igpt.evaluation.evaluator import Evaluation, Evaluator, Table, evaluate
from igpt.evaluation.sample_figures import sample_figures
from igpt.figures import Images
from igpt.files import write_rows
from igpt.generation.sampling_config import SamplingConfig
from igpt.pretrained import Pretrained
from igpt.run_directory import RunDirectory
from igpt.tokenizers import Palette, palette_of

log = logging.getLogger(__name__)


def final_report(
    run: RunDirectory,
    pretrained: Pretrained,
    data: ImageDataModule,
    evaluators: Iterable[Evaluator],
    sampling: SamplingConfig,
    image_class: int | None,
) -> Evaluation:
    """What the evaluators measure on the test split, and all figures of a run. The completed images are of the
    `image_class`, or of any class if it is None.
    """
    measured = evaluate(evaluators, pretrained, data, "test")
    log.info("Sampling")
    test = data.splits["test"]
    found = sample_figures(pretrained, test.choose(8, image_class), 36, 4, sampling)
    found["curve"] = figures.loss_curve(run.metrics)
    palette = palette_of(pretrained.tokenizer)
    if palette is not None:
        found |= palette_figures(palette, test.choose(12))
    return measured | Evaluation(figures=found)


def palette_figures(palette: Palette, images: Images) -> dict[str, Image]:
    """The colors of the palette, and the images (N, H, W, 3) above their quantized versions."""
    quantized = palette.decode(palette.encode(torch.from_numpy(images))).numpy()
    return {"palette": figures.swatches(palette.colors), "quantized": figures.quantized_strip(images, quantized)}


def save_figures(found: Mapping[str, Image], folder: Path, prefix: str = "") -> dict[str, Path]:
    """Write the figures as PNG files; the path of each."""
    return {name: figures.save(figure, folder / f"{prefix}{name}.png") for name, figure in found.items()}


def save_tables(found: Mapping[str, Table], folder: Path, prefix: str = "") -> None:
    """Write the rows of the tables as CSV files."""
    for name, table in found.items():
        write_rows(table.rows, folder / f"{prefix}{name}.csv")


def result_sentences(values: Mapping[str, Any]) -> Iterator[str]:
    """The main values of the test split, as sentences for the log."""
    if {"test/nats_per_token", "test/bits_per_token", "test/standard_error"} <= values.keys():
        nats, bits, error = (values[f"test/{name}"] for name in ("nats_per_token", "bits_per_token", "standard_error"))
        yield f"Test: {nats:.4f} nats per token ({bits:.4f} bits), standard error {error:.4f}"
    if "test/bits_per_dimension" in values:
        yield f"Test: {values['test/bits_per_dimension']:.4f} bits per dimension"
    if {"test/accuracy", "test/accuracy_standard_error"} <= values.keys():
        accuracy, error = values["test/accuracy"], values["test/accuracy_standard_error"]
        yield f"Test: accuracy {accuracy:.4f}, standard error {error:.4f}"
