"""The decoder for CPUs: decoder.c, compiled by the machine's own compiler at first use, and called from here.

In torch, one position of a small model takes longer to start its hundred operations than to compute them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from igpt.model.cache import KVCache
from igpt.model.mlps import GELU, ReLU2, SwiGLU
from igpt.model.rotary import Rotary
from igpt.model.transformer import Attention, Block, LearnedPositions, QuickGELU, RMSNorm, Transformer
from igpt.model.variants import HeadNorm, Mixed, NoPositions, SoftcappedHead, ValueEmbedding, ValueMix

log = logging.getLogger(__name__)

MLPS = (QuickGELU, GELU, ReLU2, SwiGLU)  # in the order of decoder.c's Activation
# What decoder.c follows, with the names of parameters and buffers. A derived class may compute anything.
MODULES: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys((Block, Attention, *MLPS, NoPositions, ValueMix, nn.ModuleList), ()),
    **dict.fromkeys((nn.Linear, nn.Embedding, LearnedPositions, ValueEmbedding, SoftcappedHead), ("weight",)),
    **dict.fromkeys((RMSNorm, HeadNorm), ("gain",)),
    Mixed: ("weights",),
    Rotary: ("coordinates",),
    Transformer: ("start_embedding",),
}
DIFFERS = (
    "Sampling does not use decoder.c, because its logits differ from those of the model: probably, a class in "
    "igpt/model was changed and decoder.c was not."
)
TOLERANCE = 1e-3  # of the largest logit: far above what rounding does

SOURCE = Path(__file__).with_name("decoder.c")
# Sums may be reordered, which vector code has to do. Not -ffast-math: that also changes how the whole process rounds.
FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros", "-shared", "-fPIC")


class Shape(ctypes.Structure):
    """The struct Shape of decoder.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_layer", "n_head", "n_embd", "n_hidden", "n_positions", "vocab_size")),
        ("activation", ctypes.c_int64),
        *((name, ctypes.c_float) for name in ("eps", "softcap")),
    )


class NativeDecoder:
    """Continues from a cache that has seen a prompt, like `Transformer.next_logits`, with one C call per position.

    A call releases Python's global interpreter lock, so several decoders run at once, each in a thread of its own.
    """

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        compiled = library()
        if compiled is None:
            raise RuntimeError("decoder.c could not be compiled here; ask supports() first")
        config, self.batch_size = model.config, cache.storage.shape[1]
        self.call, self.cache = compiled.next_logits, cache
        n_hidden = len(model.get_parameter("blocks.0.mlp.fc.weight"))
        self.shape = Shape(
            config.n_layer, config.n_head, config.n_embd, n_hidden, config.n_positions, config.vocab_size,
            MLPS.index(type(model.blocks[0].mlp)), model.norm.eps, config.logit_softcap or 0.0,
        )  # fmt: skip
        blocks = [tensor for number in range(config.n_layer) for tensor in block_weights(model, number)]
        self.tensors = model_weights(model), blocks, cache.storage.unbind()  # kept alive, since C sees their addresses
        self.weights, self.blocks, self.keys_values = map(pointers, self.tensors)
        per_image = 7 * config.n_embd + 2 * n_hidden
        self.work = float32(self.batch_size * per_image + config.n_positions)

    def next_logits(self, token: Tensor) -> Tensor:
        """Logits (B, V) of what comes after `token` (B,), which follows what the cache has seen."""
        token = token.long().contiguous()
        logits = float32(self.batch_size, self.shape.vocab_size)
        done = len(token) == self.batch_size and self.call(
            ctypes.byref(self.shape), self.weights, self.blocks, self.keys_values, token.data_ptr(),
            self.batch_size, self.cache.length, self.work.data_ptr(), logits.data_ptr(),
        )  # fmt: skip
        if not done:
            raise IndexError(f"a step for {self.batch_size} images after {self.cache.length} positions: {token}")
        self.cache.length += 1
        return logits


def float32(*shape: int) -> Tensor:
    """Memory for C to write to, whatever torch's default dtype and device are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def supports(model: Transformer, cache: KVCache) -> bool:
    """Whether decoder.c does what this model does, with these weights and this cache, and can be compiled here.

    The model is causal and has only modules that decoder.c knows, none of a derived class, no other parameters and no
    hooks. Everything is float32, contiguous, and on the CPU.
    """
    if not (model.config.causal and all(is_known(module) for module in model.modules())):
        return False
    norms = (module for module in model.modules() if isinstance(module, (RMSNorm, HeadNorm)))
    if any(norm.eps != model.norm.eps for norm in norms) or len({type(block.mlp) for block in model.blocks}) > 1:
        return False
    tensors = (*model.parameters(), *cache.storage)
    fits = all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)
    return fits and library() is not None


def is_known(module: nn.Module) -> bool:
    """Whether a module is of one of the classes that decoder.c follows, and nothing was attached to it."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    own = tuple(name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)))
    return not changed and own == MODULES.get(type(module))


@torch.inference_mode()
def agrees(model: Transformer) -> bool:
    """Whether a step of decoder.c gives the logits of the model's own modules.

    It does, unless a class in transformer.py was edited. They are compared at the last position, after random keys and
    values, so that changes of attention are found, too.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    cache = model.new_cache(1)  # storage (2 L, 1, h, T, d)
    one_layer = torch.randn(2, *cache.storage.shape[1:], generator=generator, dtype=torch.float32)
    cache.storage.unflatten(0, (-1, 2)).copy_(one_layer)
    token = torch.zeros(1, dtype=torch.long)
    cache.length = config.n_positions - 1
    ours = NativeDecoder(model, cache).next_logits(token)
    cache.length = config.n_positions - 1
    expected = model.next_logits(token[:, None], cache)
    same = bool((ours - expected).abs().max() <= TOLERANCE * expected.abs().max())
    if not same:
        log.warning(DIFFERS)
    return same


def model_weights(model: Transformer) -> list[Tensor | None]:
    """The fields of decoder.c's Weights; None for a part that the model does not have."""
    weights = dict(model.named_parameters())
    cos, sin = (None, None) if model.rotary is None else model.rotary(slice(None))  # each (T, 1, d)
    first = ("token_embedding.weight", "position_embedding.weight", "embedding_norm.gain")
    last = ("value_embedding.weight", "norm.gain", "head.weight")
    return [*map(weights.get, first), cos, sin, *map(weights.get, last)]


def block_weights(model: Transformer, number: int) -> list[Tensor | None]:
    """The fields of decoder.c's BlockWeights for one block."""
    block = model.blocks[number]
    weights = dict(block.named_parameters())
    shortcut = dict(model.named_parameters()).get(f"shortcuts.{number - 1}.weights")  # the first block has none
    first = ("attn_norm.gain", "attn.qkv.weight", "attn.q_norm.gain", "attn.k_norm.gain")
    last = ("attn.out.weight", "mlp_norm.gain", "mlp.fc.weight", "mlp.gate.weight", "mlp.out.weight")
    return [shortcut, *map(weights.get, first), value_weights(block.value_mix), *map(weights.get, last)]


def value_weights(mix: ValueMix | None) -> Tensor | None:
    """The weights (3,) of the block's own values, of the first block's, and of the value embedding's."""
    if mix is None or mix.mixed is None:
        return None
    present = torch.tensor([True, mix.with_first, mix.with_tokens])
    return torch.zeros(3, dtype=torch.float32).masked_scatter(present, mix.mixed.weights.detach())


def pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))


@cache
def library() -> ctypes.CDLL | None:
    """decoder.c, compiled by `cc` (or $CC); None, and a hint in the log, if that fails.

    Each process that samples compiles it again. That takes half a second, and the code always fits the processor.
    """
    try:
        try:
            compiled = compile_and_load("-march=native")
        except subprocess.CalledProcessError:  # not every compiler knows this one
            compiled = compile_and_load()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("Sampling on this CPU would be several times as fast if `cc` could compile decoder.c (%s).", reason)
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    compiled.next_logits.argtypes = (ctypes.POINTER(Shape), *[pointer] * 4, number, number, pointer, pointer)
    compiled.next_logits.restype = ctypes.c_bool
    return compiled


def compile_and_load(*flags: str) -> ctypes.CDLL:
    """The compiled decoder.c. Its file is deleted afterwards."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        target = str(Path(folder) / "decoder.so")
        subprocess.run(
            [*compiler, *FLAGS, *flags, "-o", target, str(SOURCE), "-lm"],
            check=True, capture_output=True, text=True, errors="replace", timeout=120,
            start_new_session=True,  # Ctrl-C is for this process alone
        )  # fmt: skip
        return ctypes.CDLL(target)
