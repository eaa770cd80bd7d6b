"""What an evaluator is: it measures a trained model on one split of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL.Image import Image

from igpt.data.datamodule import ImageDataModule
from igpt.figures import Images
from igpt.pretrained import Pretrained


@dataclass(frozen=True)
class Table:
    """Rows, by column; `images` (N, H, W, 3) has the image of each row, if the rows are about images."""

    rows: list[dict[str, Any]]
    images: Images | None = None


@dataclass(frozen=True)
class Evaluation:
    """Flat values by their names in summary.json, and figures and tables by the names of their files."""

    values: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Image] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)

    def __or__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.values | other.values, self.figures | other.figures, self.tables | other.tables)


class Evaluator(ABC):
    """One kind of measurement. The configuration lists the evaluators of a run in the group `evaluators`."""

    @abstractmethod
    def evaluate(self, pretrained: Pretrained, data: ImageDataModule, split: str) -> Evaluation:
        """Measure the model on `split` of `data`, which use its tokenizer.

        An evaluator that does not apply to the model returns an empty evaluation. The name of what is measured
        begins with the split, as in test/nats_per_token.
        """


def evaluate(evaluators: Iterable[Evaluator], pretrained: Pretrained, data: ImageDataModule, split: str) -> Evaluation:
    """What all evaluators measure together."""
    evaluation = Evaluation()
    for evaluator in evaluators:
        evaluation |= evaluator.evaluate(pretrained, data, split)
    return evaluation
