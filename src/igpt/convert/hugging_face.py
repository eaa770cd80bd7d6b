"""Folders in the format of transformers' ImageGPT, for generation or for classification."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from igpt.checkpoint import Description
from igpt.convert.stored_model import StoredModel, empty_weights, weights_below
from igpt.convert.tensor_names import bias_names, from_transformers, to_transformers
from igpt.convert.weight_files import WEIGHTS, check_tensors, read_json, read_weights
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.tokenizers import Palette, tokenizer_from_state, tokenizer_state

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
GENERATOR = "ImageGPTForCausalImageModeling"
CLASSIFIER = "ImageGPTForImageClassification"
SIZES = ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size")  # whole numbers in config.json

# What igpt's model computes, and at the same time the defaults of transformers' ImageGPTConfig.
FIXED = {
    "activation_function": "quick_gelu",
    "add_cross_attention": False,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
}
BUFFER = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")  # causal masks, which older versions stored


# Import


def read(folder: Path) -> StoredModel:
    """The model in a folder. Raises :class:`IgptError` if igpt's model cannot compute the same."""
    config = read_json(folder / CONFIG)
    shape = transformer_config(config, folder)
    weights = without_biases(read_weights(folder), shape.n_layer, folder)
    classes = class_names(config, folder) if "score.weight" in weights else []
    check_tensors(weights, wanted_tensors(shape, len(classes)), folder)
    return StoredModel(
        folder,
        Description(
            model=asdict(shape),
            task={"name": "classify", "task": {"name": "ar"}} if classes else {"name": "ar"},
            tokenizer=tokenizer_state(read_palette(folder, shape.vocab_size)),
            classes=classes,
            data={},
            configuration={},
            commit=None,
        ),
        our_weights(weights, shape, len(classes)),
    )


def check_kind(config: dict[str, Any], folder: Path) -> None:
    """Raise :class:`IgptError` for other models. The published files name no architecture, so that is allowed."""
    kind, named = config.get("model_type"), config.get("architectures") or []
    named = named if isinstance(named, list) else [named]
    if kind != "imagegpt" or any(name not in (GENERATOR, CLASSIFIER) for name in named):
        raise IgptError(
            f"{folder} is a model of type {kind} ({', '.join(map(str, named)) or 'no architecture'}); igpt reads "
            f"imagegpt as {GENERATOR} or {CLASSIFIER}."
        )


def transformer_config(config: dict[str, Any], folder: Path) -> TransformerConfig:
    """The shape of the model that a config.json describes."""
    check_kind(config, folder)
    for name in SIZES:
        if type(config.get(name)) is not int:
            raise IgptError(f"{folder / CONFIG} has {name}={config.get(name)}; it must be a whole number.")
    expected = {**FIXED, "n_inner": 4 * config["n_embd"]}
    for name, value in expected.items():
        found = config.get(name)
        if found is not None and found != value:
            raise IgptError(f"{folder / CONFIG} has {name}={found}, but igpt's model has {value}.")
    sizes = {name: config[name] for name in SIZES}
    return TransformerConfig(**{**sizes, "vocab_size": config["vocab_size"] - 1})  # without the start token


def without_biases(weights: dict[str, Tensor], n_layer: int, folder: Path) -> dict[str, Tensor]:
    """The weights without biases, which must be zero, and without buffers."""
    names = bias_names(n_layer)
    largest = {name: weights[name].abs().max().item() for name in names if name in weights and weights[name].any()}
    if largest:
        worst = max(largest, key=lambda name: largest[name])
        raise IgptError(
            f"{folder} has biases other than zero (the largest: {worst}, up to {largest[worst]:.3g}), as after "
            "training in transformers, but igpt's model has no biases, as in the release."
        )
    return {name: weight for name, weight in weights.items() if name not in names and not BUFFER.fullmatch(name)}


def wanted_tensors(shape: TransformerConfig, n_classes: int) -> dict[str, Tensor]:
    """The tensors of a folder, without biases, as empty ones of their shapes."""
    wanted = to_transformers(empty_weights(shape), shape.n_layer)
    if n_classes:
        del wanted["lm_head.weight"]
        wanted["score.weight"] = torch.empty(n_classes, shape.n_embd, device="meta")
    return wanted


def our_weights(weights: dict[str, Tensor], shape: TransformerConfig, n_classes: int) -> dict[str, Tensor]:
    """The state dict of an Objective."""
    head = {}
    if n_classes:
        weights["lm_head.weight"] = torch.zeros(shape.vocab_size, shape.n_embd)  # transformers' classifier has none
        head = {"head.weight": weights.pop("score.weight")}
    model = from_transformers(weights, shape.n_layer)
    return {**{f"model.{name}": weight for name, weight in model.items()}, **head}


def class_names(config: dict[str, Any], folder: Path) -> list[str]:
    """The names of a classifier's classes; transformers does not store those of the default, which are two."""
    labels = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    if not isinstance(labels, dict) or {*labels} != {str(i) for i in range(len(labels))}:
        raise IgptError(f"{folder / CONFIG} is damaged: id2label must map the numbers of the classes to their names.")
    return [str(labels[str(i)]) for i in range(len(labels))]


def read_palette(folder: Path, size: int) -> Palette:
    """The palette of a folder's image processor, whose clusters lie in [-1, 1]."""
    if not (folder / PROCESSOR).exists():
        raise IgptError(f"{folder} has no {PROCESSOR}, whose clusters are the palette; get it from the model's source.")
    try:
        clusters = np.array(read_json(folder / PROCESSOR).get("clusters"), np.float64)
    except (TypeError, ValueError):
        clusters = np.empty(0)
    if clusters.shape != (size, 3) or not np.abs(clusters).max() <= 1:
        raise IgptError(f"{folder / PROCESSOR} must have {size} clusters of 3 values in [-1, 1], as {CONFIG} implies.")
    return Palette(127.5 * (clusters + 1), {"source": folder.name})


# Export


def require_expressible(stored: StoredModel) -> None:
    """Raise :class:`IgptError` if transformers' ImageGPT cannot compute the same as the model."""
    if (feature := inexpressible(stored)) is not None:
        raise IgptError(
            f"{stored.path} has {feature}, which transformers' ImageGPT cannot have; export it with format=igpt."
        )


def inexpressible(stored: StoredModel) -> str | None:
    """What the model has that transformers' ImageGPT cannot have; None if there is nothing."""
    description = stored.description
    if not description.model["causal"]:
        return "a masked model"
    for name, chosen in TransformerConfig(**description.model).other_parts.items():
        return f"model.{name}={chosen}"
    task = description.task
    if (name := task["task"]["name"] if task["name"] == "classify" else task["name"]) != "ar":
        return f"the task {name}"
    if (kind := description.tokenizer["name"]) != "palette":
        return f"the order {description.tokenizer['order_name']}" if kind == "ordered" else f"the tokenizer {kind}"
    return None


def write(stored: StoredModel, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json, which transformers' from_pretrained reads.

    Raises :class:`IgptError` if the model cannot be expressed in this format.
    """
    require_expressible(stored)
    description = stored.description
    shape = TransformerConfig(**description.model)
    palette = tokenizer_from_state(description.tokenizer)
    assert isinstance(palette, Palette)
    _write_json(config_json(shape, stored.class_names), folder / CONFIG)
    _write_json(processor_json(palette, palette.resolution(shape.n_positions)), folder / PROCESSOR)
    tensors = their_weights(stored.weights, shape.n_layer)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def their_weights(weights: dict[str, Tensor], n_layer: int) -> dict[str, Tensor]:
    """All tensors that transformers expects, from the state dict of an Objective."""
    tensors = to_transformers(weights_below("model.", weights), n_layer)
    for bias, matrix in bias_names(n_layer).items():
        tensors[bias] = tensors[matrix].new_zeros(tensors[matrix].shape[1])
    if "head.weight" in weights:
        del tensors["lm_head.weight"]
        tensors["score.weight"] = weights["head.weight"]
    return tensors


def config_json(shape: TransformerConfig, classes: list[str]) -> dict[str, Any]:
    """The content of config.json."""
    sizes = {name: getattr(shape, name) for name in SIZES}
    labels = {
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    return {
        "architectures": [CLASSIFIER if classes else GENERATOR],
        "model_type": "imagegpt",
        **sizes,
        "vocab_size": shape.vocab_size + 1,  # with the start token, which is the last one
        **FIXED,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        "bos_token_id": shape.vocab_size,
        **(labels if classes else {}),
    }


def processor_json(palette: Palette, resolution: int) -> dict[str, Any]:
    """The content of preprocessor_config.json."""
    return {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": (palette.centroids.astype(np.float64) / 127.5 - 1).tolist(),
        "do_color_quantize": True,
        "do_resize": True,
        "resample": 2,  # bilinear
        "size": {"height": resolution, "width": resolution},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,  # to [-1, 1], as the clusters
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _write_json(content: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
