"""Figures of what a model generates."""

from __future__ import annotations

from PIL.Image import Image

from igpt import figures
from igpt.figures import Images
from igpt.generation.sampling_config import SamplingConfig
from igpt.objectives.tasks import Masked
from igpt.pretrained import Pretrained


def sample_figures(
    pretrained: Pretrained, images: Images, n_samples: int, n_completions: int, sampling: SamplingConfig
) -> dict[str, Image]:
    """Samples, and completions of the upper halves of `images`; of a masked model also `images` with their masked
    pixels filled in, and nothing else if it was trained with one mask ratio, since it then cannot generate. Nothing of
    a classifier without an output matrix.
    """
    result: dict[str, Image] = {}
    if not pretrained.predicts_tokens:
        return result
    if isinstance(pretrained.task, Masked):
        masks, filled = pretrained.predict_fixed_masks(images)
        result["filled"] = figures.fill_figure(images, masks, filled)
        if pretrained.task.masking.max_ratio is None:
            return result
    completions = pretrained.complete(images, n_completions, sampling=sampling)
    return result | {
        "samples": figures.grid(pretrained.sample(n_samples, sampling=sampling)),
        "completions": figures.completion_figure(images, completions, pretrained.given_mask(0.5)),
    }
