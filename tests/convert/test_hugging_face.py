"""Exchange with transformers: equal weights, logits, hidden states and continuations, and refusals in one sentence."""

import json
import logging
import warnings
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    ImageGPTConfig,
    ImageGPTForCausalImageModeling,
    ImageGPTForImageClassification,
)
from transformers.utils import logging as transformers_logging

import igpt
from conftest import random_weights
from igpt.checkpoint import Description
from igpt.convert import hugging_face
from igpt.convert.stored_model import StoredModel
from igpt.data.sources import EmojiSource
from igpt.errors import IgptError
from igpt.generation.sample_tokens import sample_tokens
from igpt.generation.sampling_config import SamplingConfig
from igpt.model.config import TransformerConfig
from igpt.model.transformer import Transformer
from igpt.tokenizers import RGB, Palette, tokenizer_state, with_order

SHAPES = [
    TransformerConfig(n_layer=5, n_head=3, n_embd=48, vocab_size=17, n_positions=36),
    TransformerConfig(n_layer=2, n_head=1, n_embd=48, vocab_size=17, n_positions=60),
]
CLASSES = ["cat", "dog", "nothing of these"]
CLASSIFIER = {"name": "classify", "task": {"name": "ar"}}


def stored_model(tmp_path, shape=SHAPES[0], classifier=False):
    """A model with random weights, as if it had been read from a checkpoint."""
    weights = {f"model.{name}": weight for name, weight in random_weights(shape).state_dict().items()}
    if classifier:
        weights["head.weight"] = torch.randn(3, shape.n_embd)
    palette = Palette(255 * np.random.default_rng(0).random((shape.vocab_size, 3)))
    task = CLASSIFIER if classifier else {"name": "ar"}
    described = Description(asdict(shape), task, tokenizer_state(palette), CLASSES, {}, {}, None)
    return StoredModel(tmp_path / "best.ckpt", described, weights)


def changed(stored, **fields):
    """The model with another description."""
    return replace(stored, description=replace(stored.description, **fields))


def transformer_of(stored):
    model = Transformer(TransformerConfig(**stored.description.model))
    found = {name.removeprefix("model."): w for name, w in stored.weights.items() if name.startswith("model.")}
    model.load_state_dict(found)
    return model.eval()


def after_start(tokens, start):
    """What transformers must be given, so that position t is predicted at position t."""
    return torch.cat([torch.full((len(tokens), 1), start), tokens[:, :-1]], dim=1)


@pytest.mark.parametrize("shape", SHAPES, ids=["36 positions", "60 positions"])
def test_a_model_computes_the_same_in_transformers_and_comes_back_bitwise(tmp_path, shape):
    stored = stored_model(tmp_path, shape)
    ours = transformer_of(stored)
    theirs = ImageGPTForCausalImageModeling(ImageGPTConfig(**hugging_face.config_json(shape, []))).eval()
    theirs.load_state_dict(hugging_face.their_weights(stored.weights, shape.n_layer))

    tokens = torch.randint(17, (3, shape.n_positions), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = theirs(after_start(tokens, 17), output_hidden_states=True)
        expected = [*ours.residuals(ours.embed(tokens))]
        torch.testing.assert_close(found.logits, ours(tokens), rtol=1e-5, atol=1e-5)
        for hidden, residual in zip(found.hidden_states[:-1], expected[:-1], strict=True):
            torch.testing.assert_close(hidden, residual, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.hidden_states[-1], ours.hidden(tokens), rtol=1e-5, atol=1e-5)

    given = shape.n_positions // 2
    prompt = torch.cat([torch.full((3, 1), 17), tokens[:, :given]], dim=1)
    continued = theirs.generate(prompt, max_new_tokens=shape.n_positions - given, do_sample=False)[:, 1:]
    assert torch.equal(continued, sample_tokens(ours, tokens[:, :given], 1, 0, SamplingConfig(top_k=1), 8).cpu())

    back = hugging_face.without_biases(theirs.state_dict(), shape.n_layer, tmp_path)
    back = hugging_face.our_weights(back, shape, 0)
    assert set(back) == set(stored.weights)
    assert all(torch.equal(back[name], weight) for name, weight in stored.weights.items())


@pytest.fixture
def complaints(caplog):
    """What transformers warns of, by whatever means."""
    transformers_logging.enable_propagation()
    with warnings.catch_warnings(record=True) as found, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        yield lambda: [str(w.message) for w in found] + [r.message for r in caplog.records]
    transformers_logging.disable_propagation()


@pytest.mark.parametrize("classifier", [False, True], ids=["generator", "classifier"])
def test_a_folder_goes_through_transformers_and_back(tmp_path, complaints, classifier):
    stored = stored_model(tmp_path, classifier=classifier)
    kind = ImageGPTForImageClassification if classifier else ImageGPTForCausalImageModeling
    (tmp_path / "ours").mkdir()
    hugging_face.write(stored, tmp_path / "ours")
    model, info = kind.from_pretrained(tmp_path / "ours", output_loading_info=True)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert complaints() == []
    assert not any(info.values())
    assert (model.config.resid_pdrop, model.config.attn_pdrop, model.config.embd_pdrop) == (0, 0, 0)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    processor.save_pretrained(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2

    back = hugging_face.read(tmp_path / "theirs")
    assert back.description.model == stored.description.model
    assert back.description.task == stored.description.task
    assert back.class_names == stored.class_names
    np.testing.assert_allclose(
        back.description.tokenizer["centroids"], stored.description.tokenizer["centroids"], atol=1e-5
    )
    lost = {"model.head.weight"} if classifier else set()  # transformers' classifier has none
    for name in set(stored.weights) - lost:
        assert torch.equal(back.weights[name], stored.weights[name]), name
    again = hugging_face.read(tmp_path / "ours")
    assert torch.equal(again.description.tokenizer["centroids"], stored.description.tokenizer["centroids"])


def test_a_classifier_gives_the_same_logits_and_no_likelihoods(tmp_path):
    stored = stored_model(tmp_path, classifier=True)
    (tmp_path / "ours").mkdir()
    hugging_face.write(stored, tmp_path / "ours")
    theirs = ImageGPTForImageClassification.from_pretrained(tmp_path / "ours")
    assert [theirs.config.id2label[i] for i in range(3)] == CLASSES
    loaded = igpt.load(tmp_path / "ours", device="cpu")
    images = np.random.default_rng(1).integers(0, 256, (5, 6, 6, 3), np.uint8)
    tokens = loaded.tokenize(images)
    with torch.inference_mode():
        logits = theirs(after_start(tokens, 17)).logits
        torch.testing.assert_close(
            loaded.class_head(loaded.model.hidden(tokens).mean(dim=1)), logits, rtol=1e-5, atol=1e-5
        )
    assert loaded.classify(images) == [CLASSES[i] for i in logits.argmax(dim=-1)]
    for method in (loaded.log_likelihood, loaded.complete):
        with pytest.raises(IgptError, match="This classifier has no output matrix, .* it only classifies"):
            method(images)


def test_a_classifier_is_evaluated_by_its_accuracy_alone(command, tmp_path):
    shape = replace(SHAPES[0], n_positions=64)
    stored = stored_model(tmp_path, shape, classifier=True)
    data = ("data=emoji", "data.source.resolution=8")
    for folder, classes in {"same": EmojiSource(resolution=8).classes, "others": CLASSES}.items():
        stored.weights["head.weight"] = torch.randn(len(classes), shape.n_embd)
        (tmp_path / folder).mkdir()
        hugging_face.write(changed(stored, classes=list(classes)), tmp_path / folder)
    command("evaluate", "run=same", *data)
    measured = json.loads((tmp_path / "same" / "evaluation" / "emoji_test.json").read_text())
    assert set(measured) == {"test/accuracy", "test/accuracy_standard_error", "test/labeled_images"}
    with pytest.raises(SystemExit, match="The model classifies into cat, dog, nothing of these, but the data has"):
        command("evaluate", "run=others", *data)
    with pytest.raises(SystemExit, match="This classifier has no output matrix"):
        command("sample", "run=same", "completions=0")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_older_file_with_buffers_and_half_precision(tmp_path, dtype):
    """As published: no architecture, an old processor, and causal masks among the weights in pytorch_model.bin."""
    stored = stored_model(tmp_path)
    hugging_face.write(stored, tmp_path)
    edit(tmp_path, architectures=None)
    clusters = json.loads((tmp_path / "preprocessor_config.json").read_text())["clusters"]
    processor = {"feature_extractor_type": "ImageGPTFeatureExtractor", "size": 6, "resample": 2, "clusters": clusters}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    weights = {name: weight.to(dtype) for name, weight in load_file(tmp_path / "model.safetensors").items()}
    for i in range(5):
        weights[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 36, 36, dtype=torch.uint8).tril()
        weights[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    loaded = igpt.load(tmp_path, device="cpu")
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, stored.weights[f"model.{name}"].to(dtype).float()), name
    whole = (tmp_path / "pytorch_model.bin").read_bytes()
    (tmp_path / "pytorch_model.bin").write_bytes(whole[:-100])
    assert "pytorch_model.bin cannot be read as PyTorch weights" in refusal(tmp_path)


def test_a_trained_model_completes_an_image_through_transformers_alone(command, trained, tmp_path):
    printed = command("export", f"run={trained}", "output=demo")
    assert "The model is in demo" in printed
    card = (tmp_path / "demo" / "README.md").read_text()
    assert "igpt-train experiment=emoji_ar" in card
    summary = json.loads((trained / "summary.json").read_text())
    assert f"| {summary['test/nats_per_token']:.4f} | {summary['test/standard_error']:.4f} |" in card
    code = card.split("```python\n")[1].split("```")[0]  # what the card tells people to do
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    here = {"FOLDER": str(tmp_path / "demo"), "images": [Image.fromarray(each) for each in pixels]}
    exec(code, here)

    ours = igpt.load(trained, device="cpu")
    tokens = ours.tokenize(pixels)
    assert torch.equal(here["tokens"], tokens)
    quantized = ours.tokenizer.decode(tokens).flatten(1, 2)
    completed = here["pixels"]
    assert completed.shape == (2, 64, 3)
    assert torch.equal(completed[:, :32], quantized[:, :32])
    assert {tuple(color) for color in completed.flatten(0, 1).tolist()} <= set(
        map(tuple, ours.tokenizer.colors.tolist())
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model": asdict(replace(SHAPES[0], causal=False))},
            "has a masked model",
        ),
        ({"model": {**asdict(SHAPES[0]), "norm": "my.Norm"}}, "has model.norm=my.Norm"),
        ({"model": {**asdict(SHAPES[0]), "rotary": "2d"}}, "has model.rotary=2d"),
        ({"model": {**asdict(SHAPES[0]), "value_residual": True}}, "has model.value_residual=True"),
        ({"task": {"name": "mine.Task"}}, "has the task mine.Task"),
        ({"tokenizer": tokenizer_state(RGB())}, "has the tokenizer rgb"),
        ({"tokenizer": tokenizer_state(with_order(Palette(np.ones((17, 3))), "hilbert"))}, "has the order hilbert"),
    ],
)
def test_what_transformers_cannot_express_is_refused(tmp_path, fields, message):
    with pytest.raises(IgptError, match=message) as caught:
        hugging_face.write(changed(stored_model(tmp_path), **fields), tmp_path)
    assert "which transformers' ImageGPT cannot have; export it with format=igpt" in str(caught.value)
    assert not list(tmp_path.iterdir())


# Folders that igpt refuses


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    hugging_face.write(stored_model(tmp_path), tmp_path / "model")
    return tmp_path / "model"


def edit(folder, file="config.json", **values):
    """Set values in a JSON file; None deletes one."""
    content = {**json.loads((folder / file).read_text()), **values}
    content = {name: value for name, value in content.items() if value is not None}
    (folder / file).write_text(json.dumps(content))


def edit_weights(folder, **values):
    """Set tensors, whose names have __ for dots; None deletes one."""
    weights = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): value for name, value in values.items()}
    save_file({name: w for name, w in weights.items() if w is not None}, folder / "model.safetensors")


def refusal(folder):
    with pytest.raises(IgptError) as caught:
        igpt.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "is a model of type gpt2 (GPT2LMHeadModel)"),
        ({"architectures": [{}]}, "is a model of type imagegpt ({})"),
        ({"architectures": "GPT2LMHeadModel"}, "is a model of type imagegpt (GPT2LMHeadModel)"),
        ({"architectures": ["ImageGPTModel"]}, "igpt reads imagegpt as ImageGPTForCausalImageModeling or"),
        ({"activation_function": "gelu"}, "has activation_function=gelu, but igpt's model has quick_gelu"),
        ({"n_inner": 100}, "has n_inner=100, but igpt's model has 192"),
        ({"tie_word_embeddings": True}, "has tie_word_embeddings=True"),
        ({"n_embd": "wide"}, "has n_embd=wide; it must be a whole number"),
        ({"n_layer": None}, "has n_layer=None; it must be a whole number"),
        ({"n_layer": 6}, "lacks the tensors transformer.h.5.ln_1.weight"),
        ({"n_layer": 4}, "has tensors that do not belong to this model: transformer.h.4"),
        ({"n_positions": 49}, "has transformer.wpe.weight with shape (36, 48) instead of (49, 48)"),
        ({"vocab_size": 20}, "has lm_head.weight with shape (17, 48) instead of (19, 48)"),
    ],
)
def test_a_configuration_that_does_not_fit(folder, values, message):
    edit(folder, **values)
    assert message in refusal(folder)


@pytest.mark.parametrize("labels", [["cat"], {"first": "cat"}, "cat"])
def test_labels_that_are_no_classes(tmp_path, labels):
    hugging_face.write(stored_model(tmp_path, classifier=True), tmp_path)
    edit(tmp_path, id2label=labels)
    assert "id2label must map the numbers of the classes to their names" in refusal(tmp_path)
    edit(tmp_path, id2label=None)  # transformers then means two classes
    assert "has score.weight with shape (3, 48) instead of (2, 48)" in refusal(tmp_path)


def test_biases_of_fine_tuning_in_transformers(folder):
    edit_weights(folder, transformer__h__1__mlp__c_fc__bias=torch.linspace(-0.25, 0.1, 192))
    message = refusal(folder)
    assert "has biases other than zero (the largest: transformer.h.1.mlp.c_fc.bias, up to 0.25)" in message


def test_a_bias_that_is_not_a_number_is_not_zero(folder):
    edit_weights(folder, transformer__h__1__attn__c_proj__bias=torch.full((48,), torch.nan))
    assert "(the largest: transformer.h.1.attn.c_proj.bias, up to nan)" in refusal(folder)


def test_weights_that_are_whole_numbers(folder):
    edit_weights(folder, lm_head__weight=torch.ones(17, 48, dtype=torch.int8))
    assert "has lm_head.weight as torch.int8; igpt reads floating-point weights only" in refusal(folder)


def test_a_head_that_is_missing(folder):
    edit_weights(folder, lm_head__weight=None)
    assert "lacks the tensors lm_head.weight" in refusal(folder)


@pytest.mark.parametrize("clusters", [None, "many", [[0, 0]] * 17, [[0, 0, 2]] * 17, [[0, 0, float("nan")]] * 17])
def test_clusters_that_are_no_palette(folder, clusters):
    edit(folder, "preprocessor_config.json", clusters=clusters)
    assert "must have 17 clusters of 3 values in [-1, 1]" in refusal(folder)


def test_files_that_are_missing_or_damaged(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "model.safetensors cannot be read as safetensors" in refusal(folder)
    weights.unlink()
    assert "has no weights; it needs model.safetensors or pytorch_model.bin" in refusal(folder)
    weights.write_bytes(whole)
    (folder / "preprocessor_config.json").unlink()
    assert "has no preprocessor_config.json, whose clusters are the palette" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json is not JSON" in refusal(folder)


def test_shards_that_are_missing_or_truncated(folder):
    ImageGPTForCausalImageModeling.from_pretrained(folder).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:-4])
    assert f"{shards[1].name} cannot be read as safetensors" in refusal(folder)
    shards[1].unlink()
    assert f"lacks {shards[1].name}, named in model.safetensors.index.json" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "is no index of shards" in refusal(folder)


class Evil:
    """A pickle of this runs code when it is loaded carelessly."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (self.file, "w"))


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickle_with_code_is_never_run(folder, tmp_path, as_zip):
    (folder / "model.safetensors").unlink()
    evil = {"transformer.wte.weight": Evil(str(tmp_path / "pwned"))}
    torch.save(evil, folder / "pytorch_model.bin", _use_new_zipfile_serialization=as_zip)
    assert "pytorch_model.bin cannot be read as PyTorch weights" in refusal(folder)
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")
    assert "it contains other things than named tensors" in refusal(folder)
    torch.save(evil, tmp_path / "evil.ckpt")
    with pytest.raises(IgptError, match="evil.ckpt is not a checkpoint"):
        igpt.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()
