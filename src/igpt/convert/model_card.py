"""The model card of an exported model: a README.md for people, with the header that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from typing import Any

from igpt.convert.stored_model import StoredModel
from igpt.model.config import TransformerConfig
from igpt.tokenizers import palette_of, tokenizer_from_state

CARD = """\
---
library_name: {library}
pipeline_tag: {pipeline}
tags:
- image-gpt
- igpt
{license}
---

# {name}

{summary}

## Data and tokenizer

{data}

## Training

{training}

## Results

{results}

## Use

{use}
"""

GENERATOR_USE = """\
```python
import torch
from transformers import AutoImageProcessor, ImageGPTForCausalImageModeling

processor = AutoImageProcessor.from_pretrained(FOLDER)
model = ImageGPTForCausalImageModeling.from_pretrained(FOLDER).eval()
tokens = processor(images, return_tensors="pt").input_ids  # (N, {positions}) of N PIL images
start = torch.full((len(tokens), 1), {start})
prompt = torch.cat([start, tokens[:, :{half}]], dim=1)  # the upper half
completed = model.generate(prompt, max_new_tokens={rest}, do_sample=True)[:, 1:]
clusters = torch.as_tensor(processor.clusters)
pixels = (127.5 * (clusters[completed] + 1)).round().byte()  # (N, {positions}, 3), row by row
```
"""

CLASSIFIER_USE = """\
```python
import torch
from transformers import AutoImageProcessor, ImageGPTForImageClassification

processor = AutoImageProcessor.from_pretrained(FOLDER)
model = ImageGPTForImageClassification.from_pretrained(FOLDER).eval()
tokens = processor(images, return_tensors="pt").input_ids  # (N, {positions}) of N PIL images
start = torch.full((len(tokens), 1), {start})
logits = model(torch.cat([start, tokens[:, :-1]], dim=1)).logits
```
"""

START_AND_CROP = """\
Every sequence begins with the start token, {start}. The processor resizes an image to {side}x{side} pixels
without cropping it. igpt, which trained the model, crops the center square first.

`igpt.load(FOLDER)` and every command of igpt (`run=FOLDER`) read the same folder."""

IGPT_USE = """\
```python
import igpt

model = igpt.load(FOLDER)
```

Every command of igpt takes the folder as `run=FOLDER`."""


def model_card(
    stored: StoredModel, name: str, format_name: str, command: str | None = None, license_name: str | None = None
) -> str:
    """The card of a model that is exported as `name`.

    `command` is what it was trained with, if that is known. The card asks for a license if none is given.
    """
    return CARD.format(
        library="transformers" if format_name == "huggingface" else "igpt",
        pipeline="image-classification" if stored.class_names else "unconditional-image-generation",
        license="# license: the license under which you publish this model"
        if license_name is None
        else f"license: {license_name}",
        name=name,
        summary=_summary(stored),
        data=_data(stored),
        training=_training(stored, command),
        results=_results(stored.results),
        use=_use(stored) if format_name == "huggingface" else IGPT_USE,
    )


def _summary(stored: StoredModel) -> str:
    description = stored.description
    shape = TransformerConfig(**description.model)
    side = tokenizer_from_state(description.tokenizer).resolution(shape.n_positions)
    kind = "An autoregressive" if shape.causal else "A masked"
    classes = len(stored.class_names)
    dtype = str(stored.weights["model.norm.gain"].dtype).removeprefix("torch.")
    fine_tuned = f", fine-tuned to classify them into {classes} classes" if classes else ""
    return (
        f"{kind} image GPT (layers: {shape.n_layer}, width: {shape.n_embd}, heads: {shape.n_head}) for images of "
        f"{side}x{side} pixels{fine_tuned}. The weights are stored in {dtype}."
    )


def _data(stored: StoredModel) -> str:
    tokenizer = tokenizer_from_state(stored.description.tokenizer)
    palette = palette_of(tokenizer)
    source = stored.description.data
    lines = [
        f"- Data: `{json.dumps(source)}`" if source else "- Data: unknown",
        f"- Tokenizer: `{tokenizer!r}`, {tokenizer.vocab_size} tokens",
    ]
    if palette is not None and "psnr_db" in palette.info:
        lines.append(f"- PSNR of the palette on the training images: {palette.info['psnr_db']:.2f} dB")
    return "\n".join(lines)


def _training(stored: StoredModel, command: str | None) -> str:
    configuration = stored.description.configuration
    lines = [f"    {command}\n"] if command else []
    if stored.description.commit:
        lines.append(f"- Code: igpt at commit {stored.description.commit}")
    for title, section in {"Objective": "objective", "Optimizer": "optim"}.items():
        if section in configuration:
            values = {key: value for key, value in configuration[section].items() if value is not None}
            lines.append(f"- {title}: `{json.dumps(values)}`")
    if "trainer" in configuration:
        steps, images = configuration["trainer"]["max_steps"], configuration["data"]["batch_size"]
        at = f"- Step {stored.step:,} of {steps:,}" if stored.step not in (None, steps) else f"- {steps:,} steps"
        lines.append(f"{at}, {images} images per step, seed {configuration['seed']}")
    return "\n".join(lines) or "Unknown."


def _results(results: dict[str, Any]) -> str:
    """A table of the values of the test split, each with its standard error."""
    rows = {
        "nats per token": ("test/nats_per_token", "test/standard_error", "test/images"),
        "bits per dimension": ("test/bits_per_dimension", None, "test/images"),
        "accuracy": ("test/accuracy", "test/accuracy_standard_error", "test/labeled_images"),
    }
    lines = []
    for title, (key, error, images) in rows.items():
        if key in results:
            deviation = f"{results[error]:.4f}" if error else ""
            lines.append(f"| {title} | test | {results[key]:.4f} | {deviation} | {results[images]} |")
    header = "| measure | split | value | standard error | images |\n|---|---|---|---|---|\n"
    return header + "\n".join(lines) if lines else "Not measured."


def _use(stored: StoredModel) -> str:
    shape = TransformerConfig(**stored.description.model)
    side = tokenizer_from_state(stored.description.tokenizer).resolution(shape.n_positions)
    half = side // 2 * side
    code = CLASSIFIER_USE if stored.class_names else GENERATOR_USE
    return (code + "\n" + START_AND_CROP).format(
        positions=shape.n_positions, start=shape.vocab_size, side=side, half=half, rest=shape.n_positions - half
    )
