"""Features of all layers for the linear probe: igpt's single pass, and Hugging Face ImageGPT's hidden states.

python benchmarks/features.py
python benchmarks/features.py --model s --device cuda --batch-size 64
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
import transformers
from sampling import hugging_face, random_model
from table import write_table
from torch import Tensor
from torch.nn import functional as F
from transformers import ImageGPTForCausalImageModeling

from igpt.model.config import PRESETS, TransformerConfig


def their_features(model: ImageGPTForCausalImageModeling, tokens: Tensor) -> Tensor:
    """The same as `Transformer.features`, (B, L + 1, C), from hidden states; the last is already normalized."""
    start = F.pad(tokens[:, :-1], (1, 0), value=model.config.vocab_size - 1)
    *hidden, last = model.transformer(start, output_hidden_states=True, use_cache=False).hidden_states
    normed = [block.ln_1(h) for block, h in zip(model.transformer.h, hidden, strict=True)]
    return torch.stack([h.mean(dim=1) for h in (*normed, last)], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=PRESETS, default="nano")
    parser.add_argument("--side", type=int, default=32, help="image side in pixels")
    parser.add_argument("--colors", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; by default torch's own choice")
    parser.add_argument("--name", default="features", help="of the files below benchmarks/results")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    shape = TransformerConfig(**PRESETS[arguments.model], vocab_size=arguments.colors, n_positions=arguments.side**2)
    ours = random_model(shape).to(arguments.device)
    theirs = hugging_face(ours).to(arguments.device)
    tokens = torch.randint(shape.vocab_size, (arguments.batch_size, shape.n_positions), device=arguments.device)

    def in_bfloat16(tokens: Tensor) -> Tensor:
        with torch.autocast(torch.device(arguments.device).type, torch.bfloat16):
            return ours.features(tokens)

    ways = {
        "igpt": ours.features,
        "igpt, bfloat16": in_bfloat16,
        "Hugging Face": lambda tokens: their_features(theirs, tokens),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    with torch.inference_mode():
        for repetition in range(1 + arguments.repetitions):
            for name, way in ways.items():
                start = time.perf_counter()
                results[name] = way(tokens).cpu()
                if repetition > 0:  # the first call warms up
                    seconds[name].append(time.perf_counter() - start)
    reference = results["Hugging Face"]
    rows = [
        {
            "implementation": name,
            "images per second": round(arguments.batch_size / median(took), 2),
            "speedup over Hugging Face": round(median(seconds["Hugging Face"]) / median(took), 2),
            "largest difference": f"{(results[name] - reference).abs().max():.1e}",
        }
        for name, took in seconds.items()
    ]
    write_table(
        arguments.name,
        f"Features of all {shape.n_layer} layers and the final norm, model {arguments.model}",
        rows,
        f"{shape.n_positions} tokens, batches of {arguments.batch_size}, float32 where not noted, {arguments.device}, "
        f"{torch.get_num_threads()} CPU threads; transformers {transformers.__version__}. Same random weights. Medians "
        f"of {arguments.repetitions} repetitions in turn, after one warm-up. The mean absolute feature is "
        f"{reference.abs().mean():.2g}.",
    )


if __name__ == "__main__":
    main()
