"""OpenAI's release of image GPT: folders with a TensorFlow checkpoint and kmeans_centers.npy, autoregressive or masked.

The names and shapes are those of the release's graph, and so is the layout: queries, keys and values are computed by
matrices [heads, n / heads, n] from n channels, and the output of attention by one of the same shape, to n channels. The
matrices of the MLP are [in, out].
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from igpt.checkpoint import Description
from igpt.convert.stored_model import StoredModel
from igpt.convert.tensor_bundle import TensorBundle
from igpt.convert.weight_files import check_tensors
from igpt.errors import IgptError
from igpt.model.config import TransformerConfig
from igpt.objectives.tasks import Autoregressive, Masked, task_state
from igpt.progress import track
from igpt.run_directory import tensorflow_index
from igpt.tokenizers import Palette, tokenizer_state

PALETTE = "kmeans_centers.npy"
PALETTE_SOURCE = "https://openaipublic.blob.core.windows.net/image-gpt/color-clusters/kmeans_centers.npy"
FILE = re.compile(r"model\.ckpt-(\d+)\.(index|meta|data-.*)")
BLOCK = re.compile(r"model/h(\d+)/")
START = "model/sos"  # which only autoregressive models have


def find_index(path: Path) -> Path | None:
    """The index file of the checkpoint that `path` names, or of the newest one in a folder; None if there is none.

    If shards are there without their index, it names a file that does not exist.
    """
    if (named := tensorflow_index(path)) is not None or not path.is_dir():
        return named
    steps = [int(found[1]) for file in path.iterdir() if (found := FILE.fullmatch(file.name))]
    return path / f"model.ckpt-{max(steps)}.index" if steps else None


def read(index: Path) -> StoredModel:
    """The model of a checkpoint. Raises :class:`IgptError` if it is damaged, or not one of the release."""
    bundle = TensorBundle(index)
    shape = transformer_config(bundle)
    check_names(bundle, shape)
    palette = read_palette(index.parent, shape.vocab_size)
    description = Description(
        model=asdict(shape),
        task=task_state(Autoregressive() if shape.causal else Masked()),
        tokenizer=tokenizer_state(palette),
        classes=[],
        data={},
        configuration={},
        commit=None,
    )
    weights = our_weights(bundle, shape)
    return StoredModel(index, description, {f"model.{name}": weight for name, weight in weights.items()})


def files(index: Path) -> list[Path]:
    """The index and the shards."""
    return [index, *TensorBundle(index).shards]


def transformer_config(bundle: TensorBundle) -> TransformerConfig:
    """The shape of the model, from those of its tensors."""
    shapes = {name: entry.shape for name, entry in bundle.entries.items()}
    sizes = {"model/wte": 2, "model/wpe": 2, "model/h0/attn/q_proj": 3}
    if any(len(shapes.get(name, ())) != n for name, n in sizes.items()):
        raise IgptError(
            f"{bundle.index} is the checkpoint of another TensorFlow model: it lacks {', '.join(sizes)} with "
            "two, two and three dimensions; igpt reads those of OpenAI's image GPT."
        )
    (vocab_size, n_embd), (n_positions, _) = shapes["model/wte"], shapes["model/wpe"]
    return TransformerConfig(
        n_layer=1 + max(int(found[1]) for name in shapes if (found := BLOCK.match(name))),
        n_head=shapes["model/h0/attn/q_proj"][0],
        n_embd=n_embd,
        vocab_size=vocab_size,
        n_positions=n_positions,
        causal=START in shapes,
    )


def check_names(bundle: TensorBundle, shape: TransformerConfig) -> None:
    """Raise :class:`IgptError` unless the checkpoint has the tensors of the model, in their shapes, and no others.

    Ignored are the state of the optimizer, which is stored below the names of the weights or outside of model/, and a
    classifier, which the release's own program does not read, either.
    """
    wanted = {name: torch.empty(size, device="meta") for name, size in tensor_shapes(shape).items()}
    found = {
        name: torch.empty(entry.shape, device="meta")
        for name, entry in bundle.entries.items()
        if name.startswith("model/") and not name.startswith("model/clf/") and name.rpartition("/")[0] not in wanted
    }
    check_tensors(found, wanted, bundle.index)


def tensor_shapes(shape: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The names of the model's tensors in the release's graph, and their shapes."""
    width, per_head = shape.n_embd, (shape.n_head, shape.head_size, shape.n_embd)
    block = {
        "ln_1/g": (width,),
        **{f"attn/{name}": per_head for name in ("q_proj", "k_proj", "v_proj", "c_proj")},
        "ln_2/g": (width,),
        "mlp/c_fc/w": (width, 4 * width),
        "mlp/c_proj/w": (4 * width, width),
    }
    return {
        "model/wte": (shape.vocab_size, width),
        **({START: (width,)} if shape.causal else {}),
        "model/wpe": (shape.n_positions, width),
        **{f"model/h{i}/{name}": size for i in range(shape.n_layer) for name, size in block.items()},
        "model/ln_f/g": (width,),
        "model/wtet": (shape.vocab_size, width),
    }


def our_weights(bundle: TensorBundle, shape: TransformerConfig) -> dict[str, Tensor]:
    """The state dict of a Transformer. All but queries, keys and values stay in the memory of the files."""
    weights = {
        "token_embedding.weight": bundle.read("model/wte"),
        "position_embedding.weight": bundle.read("model/wpe"),
        "norm.gain": bundle.read("model/ln_f/g"),
        "head.weight": bundle.read("model/wtet"),
    }
    if shape.causal:
        weights["start_embedding"] = bundle.read(START)
    for i in track(range(shape.n_layer), f"Reading {bundle.index.stem}"):
        weights |= {f"blocks.{i}.{name}": weight for name, weight in _block_weights(bundle, f"model/h{i}").items()}
    return weights


def _block_weights(bundle: TensorBundle, block: str) -> dict[str, Tensor]:
    # igpt's matrices are [out, in]. In attention, the heads are the output of q, k and v, and the input of c_proj.
    q, k, v, c = (bundle.read(f"{block}/attn/{name}_proj").flatten(0, 1) for name in "qkvc")  # each (n, n)
    return {
        "attn_norm.gain": bundle.read(f"{block}/ln_1/g"),
        "attn.qkv.weight": torch.cat([q, k, v]),
        "attn.out.weight": c.t(),
        "mlp_norm.gain": bundle.read(f"{block}/ln_2/g"),
        "mlp.fc.weight": bundle.read(f"{block}/mlp/c_fc/w").t(),
        "mlp.out.weight": bundle.read(f"{block}/mlp/c_proj/w").t(),
    }


def read_palette(folder: Path, size: int) -> Palette:
    """The palette beside a checkpoint, or in the folder above it, which may hold several models."""
    places = [folder / PALETTE, folder.absolute().parent / PALETTE]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        raise IgptError(f"{folder} has no {PALETTE}, the palette of the release; put {PALETTE_SOURCE} into it.")
    palette = Palette.load(found)
    if palette.vocab_size != size:
        raise IgptError(
            f"{found} has {palette.vocab_size} colors, but the model in {folder} has {size}; get the right one."
        )
    return palette
