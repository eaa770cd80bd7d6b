"""Values that no command can use end in one sentence with the key's name, before anything is done or left behind."""

import pytest
from hydra import compose, initialize_config_module

from igpt.configuration.schema.check import check
from igpt.errors import IgptError

# The command, its arguments, and what its sentence must have in it: the key, and where there is one, the way out.
# The first half was written from what people get wrong, before the schema was.
RUN = "run=nowhere"
CASES = [
    ("train", "optim.lr=-1", "optim.lr is -1; it must be a number above 0"),
    ("train", "optim.lr=abc", "optim.lr is abc; it must be a number above 0"),
    ("train", "optim.lr=null", "optim.lr is null"),
    ("train", "optim.betas=0.9", "optim.betas is 0.9; it must be two numbers"),
    ("train", "optim.betas=[0.9,1]", "optim.betas"),
    ("train", "optim.warmup_steps=-5", "optim.warmup_steps is -5"),
    ("train", "optim.schedule=step", "optim.schedule is step; it must be cosine, linear, wsd or constant"),
    ("train", "optim.decay_share=0", "optim.decay_share is 0; it must be a number above 0 and at most 1"),
    ("train", "optim.weight_decay=-0.1", "optim.weight_decay is -0.1; it must be a number of at least 0"),
    ("train", "optim.cautious_decay=1", "optim.cautious_decay is 1; it must be true or false"),
    ("train", "optim=muon optim.momentum_warmup_steps=-1", "optim.momentum_warmup_steps is -1"),
    ("train", "optim.name=sgd", "optim.name is sgd; it must be adam or muon"),
    ("train", "seed=1.5", "seed is 1.5; it must be a whole number"),
    ("train", "seed=x", "seed is x"),
    ("train", "seed=-1", "seed is -1"),
    ("train", "seed=null", "seed is null"),
    ("train", "compile=maybe", "compile is maybe; it must be true or false"),
    ("train", "order=zigzag", "order is zigzag; it must be raster, column, serpentine"),
    ("train", "monitor=val/loss", "monitor is val/loss; a validation of this run measures val/nats_per_token"),
    ("train", "monitor=val/accuracy", "monitor is val/accuracy"),
    ("train", "monitor_mode=minimum", "monitor_mode is minimum; it must be min, max or null"),
    ("train", "matmul_precision=medium", "matmul_precision is medium; it must be high or highest"),
    ("train", "save_every=0", "save_every is 0"),
    ("train", "sample_every=0", "sample_every is 0"),
    ("train", "image_class=-1", "image_class is -1; it must be a class by its name"),
    ("train", "sampling.top_p=2", "sampling.top_p is 2; it must be a number above 0 and at most 1"),
    ("train", "sampling.temperature=-1", "sampling.temperature is -1"),
    ("train", "sampling.passes=8", "sampling.passes is 8; it applies to masked models only, and this is an autoregr"),
    ("train", "objective=classify objective.task=ar sampling.choice_temperature=0", "sampling.choice_temperature is 0"),
    ("train", "objective=mlm sampling.compile=true", "sampling.compile is true; it applies to autoregressive models"),
    ("train", "objective=mlm callbacks.sample.sampling={cache_dtype:float32}", "callbacks.sample.sampling.cache_dtype"),
    ("train", "model.n_positions=100", "model.n_positions is 100; images of 32x32 have 1024 tokens"),
    ("train", "model.n_embd=130", "model.n_embd is 130; it must be a multiple of model.n_head=4"),
    ("train", "model.n_layer=0", "model.n_layer is 0"),
    ("train", "model.rotary=3d", "model.rotary is 3d; it must be 1d, 2d or null"),
    (
        "train",
        "model.rotary=2d model.n_embd=132 model.n_head=66",
        "model.n_head is 66; model.rotary=2d needs heads of a",
    ),
    ("train", "model.value_embedding=[6]", "model.value_embedding is [6]; blocks are numbered from 0 to 5"),
    ("train", "model.value_embedding=first", "model.value_embedding is first; it must be a list of blocks"),
    ("train", "model.qk_norm=2", "model.qk_norm is 2"),
    ("train", "model.logit_softcap=0", "model.logit_softcap is 0; it must be a number above 0, or null"),
    ("train", "model.dropout=1", "model.dropout is 1; it must be a number of at least 0 and below 1"),
    ("train", "model.attention_dropout=-0.1", "model.attention_dropout is -0.1"),
    ("train", "tokenizer.size=1", "tokenizer.size is 1"),
    ("train", "tokenizer.size=5000", "tokenizer.size is 5000; it must be a whole number of colors from 2 to 4096"),
    ("train", "data.batch_size=0", "data.batch_size is 0"),
    ("train", "data.batch_size=32.0", "data.batch_size is 32.0"),
    ("train", "data.num_workers=-1", "data.num_workers is -1"),
    ("train", "data.device_batch_size=0", "data.device_batch_size is 0"),
    ("train", "data.max_unreadable=5", "data.max_unreadable is 5; it must be a number from 0 to 1"),
    ("train", "data.source.resolution=24", "data.source.resolution is 24; it must be 8, 16 or 32"),
    ("train", "data.augment=flip", "data/augment=flip"),
    ("train", "trainer.max_steps=0", "trainer.max_steps is 0"),
    ("train", "trainer.max_steps=1e4", "trainer.max_steps is 10000.0; it must be a whole number"),
    ("train", "trainer.val_check_interval=0", "trainer.val_check_interval is 0"),
    ("train", "trainer.check_val_every_n_epoch=1", "trainer.check_val_every_n_epoch is 1; it must be null"),
    ("train", "trainer.use_distributed_sampler=true", "it must be false: igpt divides batches itself"),
    ("train", "+trainer.enable_progress_bar=false", "igpt sets it itself"),
    ("train", "+trainer.barebones=true", "callbacks=none logger=none"),
    ("train", "monitor=mine/loss", "monitor is mine/loss; a validation of this run measures"),
    ("train", "objective=classify objective.task=ar callbacks.best.monitor=val/accuracy", "its max; choose that"),
    (
        "train",
        "callbacks=online_probe monitor=probe/layer_1 trainer.val_check_interval=10 "
        "callbacks.online_probe.every_n_steps=11",
        "monitor is probe/layer_1; callbacks.online_probe.every_n_steps is 11, but it must be measured by each",
    ),
    ("train", "trainer.log_every_n_steps=0", "trainer.log_every_n_steps is 0"),
    ("train", "trainer.precision=fp16", "trainer.precision is fp16; it must be auto, 32-true"),
    ("train", "trainer.devices=0", "trainer.devices is 0"),
    ("train", "trainer.accelerator=gpus", "trainer.accelerator is gpus; it must be auto, cpu, gpu"),
    ("train", "trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is -1"),
    ("train", "trainer=ddp trainer.strategy=dpp", "trainer.strategy is dpp; it must be auto or ddp"),
    ("train", "objective=mlm objective.ratio=0", "objective.ratio is 0"),
    ("train", "objective.transforms=[rotate]", "rotation, transposition"),
    ("train", "objective.transforms=rotation", "it must be a list of some of rotation,"),
    ("train", "data=mnist tokenizer=gray data.source.resolution=7 objective.transforms=[jigsaw]", "7x7 cannot be"),
    ("train", "objective.random_order_steps=[9,5]", "it must name the earlier step first"),
    ("train", "objective.random_order_steps=100", "it must be two steps, [1000, 2000], or null"),
    ("train", "objective.random_order_steps=[0,9] model.positions=none model.rotary=2d", "model.positions=learned"),
    ("train", "objective.stages=[16,100]", "it must be a list of pairs of a resolution and a step"),
    ("train", "objective.stages=[[16,100],[8,200]]", "resolutions and steps must both increase"),
    ("train", "objective=mlm objective.stages=[[12,100]]", "images of 32x32 cannot be averaged to 12x12"),
    ("train", "objective.stages=[[16,100]] order=spiral", "it needs order=raster"),
    ("train", "objective.stages=[[16,9]] objective.random_order_steps=[0,9]", "leave out one of the two"),
    ("train", "objective=mlm objective.max_ratio=0.1", "objective.max_ratio is 0.1; it must not be below"),
    ("train", "trainer=fsdp optim=muon", "optim.name is muon; it needs whole matrices"),
    ("train", "trainer=fsdp callbacks=ema", "callbacks.ema"),
    ("train", "callbacks=ema callbacks.ema.decay=1", "callbacks.ema.decay is 1; it must be a number of at least 0"),
    ("train", "monitor=val_ema/nats_per_token", "monitor is val_ema/nats_per_token; a validation of this run measures"),
    ("evaluate", "run=x weights=averaged", "weights is averaged; it must be trained, ema or null"),
    ("train", "objective=classify", "objective.task is null; without init_from it must name"),
    ("train", "objective=classify objective.task=gpt", "objective.task is gpt; it must be ar, mlm or null"),
    ("train", "callbacks=early_stop callbacks.early_stop.patience=-1", "callbacks.early_stop.patience is -1"),
    ("train", "callbacks=online_probe callbacks.online_probe.layers=[99]", "callbacks.online_probe.layers"),
    (
        "train",
        "logger=wandb logger.wandb.artifacts=[first]",
        "logger.wandb.artifacts is ['first']",
    ),
    ("train", "logger=wandb +logger.wandb.log_model=true", "set logger.wandb.artifacts=[best] instead"),
    ("train", "logger=wandb logger.wandb.offline=yes", "logger.wandb.offline is yes; it must be true, false or null"),
    ("train", "data=cifar10 data.source.resolution=20", "data.source.resolution is 20"),
    ("train", "data=folder data.source.path=2024", "data.source.path is 2024; it must be text"),
    ("train", "data=folder data.source.path=x data.source.test_share=10", "data.source.test_share is 10"),
    ("train", "data/augment=cifar data.augment.padding=-1", "data.augment.padding is -1"),
    (
        "train",
        "data/augment=imagenet",
        "data.stored_resolution is null; crops of data.augment would have fewer than 32",
    ),
    ("train", "data=imagenet data.stored_resolution=54", "data.stored_resolution is 54; crops of data.augment"),
    ("train", "+optm.lr=0.1", "optm.lr is a key that nothing uses; did you mean optim.lr"),
    ("train", "+lr=0.01", "lr is a key that nothing uses; did you mean optim.lr"),
    ("train", "+trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches is 2; set data.device_batch_size"),
    ("train", "+trainer.max_epochs=2", "trainer.max_epochs is 2; training counts steps, so set trainer.max_steps"),
    ("train", "+trainer.determinstic=true", "trainer.determinstic"),
    ("train", "+data.source.path=pics", "data.source.path is a key that nothing uses"),
    ("train", "~optim.lr", "optim.lr is missing"),
    ("evaluate", f"{RUN} split=dev", "split is dev; it must be train, validation or test"),
    ("evaluate", f"{RUN} checkpoint=newest", "checkpoint is newest; it must be best or last"),
    ("evaluate", f"{RUN} device=gpu0", "device is gpu0; it must be cpu, cuda"),
    ("sample", f"{RUN} n=two", "n is two; it must be a whole number of at least 0"),
    ("sample", f"{RUN} n=-1", "n is -1"),
    ("sample", f"{RUN} n=0 completions=0", "n is 0"),
    ("sample", f"{RUN} images=[]", "images is []; it must be a file or folder"),
    ("sample", f"{RUN} n_images=0", "n_images is 0"),
    ("sample", f"{RUN} given=50", "given is 50; it must be a number from 0 to 1"),
    ("sample", f"{RUN} sampling.top_k=0", "sampling.top_k is 0"),
    ("sample", f"{RUN} sampling.top_p=0", "sampling.top_p is 0"),
    ("sample", f"{RUN} sampling.passes=0", "sampling.passes is 0"),
    ("sample", f"{RUN} sampling.cache_dtype=int4", "sampling.cache_dtype is int4; it must be float32, bfloat16"),
    ("sample", f"{RUN} matmul_precision=fast", "matmul_precision is fast; it must be high or highest"),
    ("probe", f"{RUN} labels_per_class=25", "labels_per_class is 25; it must be a list of whole numbers"),
    ("probe", f"{RUN} labels_per_class=[0]", "labels_per_class"),
    ("probe", f"{RUN} subsets=0", "subsets is 0"),
    ("probe", f"{RUN} precision=16-mixed", "precision is 16-mixed; it must be auto, 32-true or bf16-mixed"),
    ("probe", f"{RUN} probe.solver=newton", "probe.solver is newton; it must be lbfgs or stream"),
    ("probe", f"{RUN} probe.penalties=[]", "probe.penalties is []"),
    ("probe", f"{RUN} probe.regions=0", "probe.regions is 0"),
    ("probe", f"{RUN} probe.neighbors=0", "probe.neighbors is 0"),
    ("probe", f"{RUN} probe.attentive=true", "probe.attentive is true; it needs probe.solver=stream"),
    ("probe", f"{RUN} devices=2", "devices is 2; only probe.solver=stream uses several processes"),
    ("probe", f"{RUN} probe.solver=stream labels_per_class=[4]", "few labels are for probe.solver=lbfgs"),
    ("probe", f"{RUN} probe.solver=stream probe.attentive=true masks=3", "masks is 3; attention pooling sees whole"),
    ("probe", f"{RUN} untrained=no", "untrained is no; it must be true or false"),
    ("plan", "device=h1000", "device is h1000; it must be h100, h200"),
    ("plan", "devices=0", "devices is 0"),
    ("plan", "utilization=40", "utilization is 40; it must be a number above 0 and at most 1"),
    ("plan", "price_per_hour=free", "price_per_hour is free"),
    ("palette", "tokenizer.iterations=0", "tokenizer.iterations is 0"),
    ("palette", "tokenizer=rgb +tokenizer.size=4", "tokenizer.size is a key that nothing uses"),
    ("jobs", "sweep=2024", "sweep is 2024; it must be text"),
]


@pytest.mark.parametrize(("name", "arguments", "sentence"), CASES, ids=[f"{case[0]} {case[1]}" for case in CASES])
def test_a_bad_value_is_named_in_one_sentence(name, arguments, sentence):
    with initialize_config_module("igpt.conf", version_base="1.3"):
        config = compose(name, overrides=arguments.split())
    if "run_dir" in config:
        config.run_dir = "outputs/run"  # of Hydra, which does not run here
    with pytest.raises(IgptError) as caught:
        check(config, name)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "arguments", "sentence"), CASES[::9], ids=[case[1] for case in CASES[::9]])
def test_a_command_refuses_a_bad_value_and_leaves_nothing(command, tmp_path, name, arguments, sentence):
    with pytest.raises(SystemExit) as caught:
        command(name, *arguments.split())
    message = caught.value.code
    assert message.startswith("Error: ")
    assert sentence in message
    assert list(tmp_path.iterdir()) == []


def test_a_bad_value_leaves_a_used_folder_alone(command, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        command("train", "optim.lr=-1", "hydra.run.dir=run")
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
