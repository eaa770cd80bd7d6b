"""Paths of every kind, on the command line and in stored configurations."""

import getpass
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from conftest import run_command
from igpt.configuration.app import ensure_home
from igpt.configuration.path_arguments import make_absolute, quote, quote_paths, unquote
from igpt.data.sources import ImageFolderSource
from igpt.files import all_printable, expand_user, printable
from igpt.training.loggers.wandb_process import printable_arguments

NO_UTF8 = os.fsdecode(b"r\xff\xe4n")
ODD = [
    "a=b", "a,b", "a (1)", "(1)", "a#b", "50%", "ü", "[x]", "{x}", "it's", "a:b", "~x",
    NO_UTF8, "a b", "a\\b", "a\\", "a\\\\'b", "\\'",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_hydra_reads_paths_as_they_are(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for argument in (f"images={name}", f"run={tmp_path}/{name}", f"hydra.run.dir=new/{name}"):
        (found,) = quote_paths([argument])
        override = OverridesParser.create().parse_override(found)
        assert not override.is_sweep_override() or "hydra" in argument
        assert "hydra" in argument or override.value() == argument.partition("=")[2]
        assert quote_paths([found]) == [found]
    assert unquote(quote(name)) == name


@settings(max_examples=200, deadline=None)
@given(st.text("\\\\'\"a,=()[]{}#%$ :~\n\t\udcff"))
def test_what_is_quoted_is_read_back(value):
    assert OverridesParser.create().parse_override(f"run={quote(value)}").value() == value
    assert unquote(quote(value)) == value


@pytest.mark.parametrize(
    "argument", ["seed=1,2", "images=[a.png,b.png]", "run=a,b", "--multirun", "optim.lr=1e-3", "n=1"]
)
def test_other_arguments_stay(tmp_path, monkeypatch, argument):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").mkdir()
    assert quote_paths([argument]) == [argument]


def test_relative_paths_are_written_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("pics", "groups.csv", "train.parquet", "palette.npz"):
        (tmp_path / name).touch()
    config = OmegaConf.create(
        {
            "data": {
                "source": {
                    "path": "pics", "root": "${oc.env:NO_SUCH,absent}", "group": "groups.csv",
                    "data_files": {"train": "train.*", "test": ["absent", "/abs"]},
                },
                "cache_dir": "???",
            },
            "tokenizer": {"path": "palette.npz"},
            "init_from": None,
        }
    )  # fmt: skip
    OmegaConf.set_struct(config, True)
    make_absolute(config)
    source = config.data.source
    assert (source.path, source.group) == (f"{tmp_path}/pics", f"{tmp_path}/groups.csv")
    assert source.data_files == {"train": f"{tmp_path}/train.*", "test": ["absent", "/abs"]}
    assert OmegaConf.is_interpolation(source, "root")
    assert config.tokenizer.path == f"{tmp_path}/palette.npz"
    for value in ("uoft-cs/cifar10", "(patient[0-9]+)", "**a", ""):  # no files
        config.data.source.path = value
        make_absolute(config)
        assert config.data.source.path == value


def test_a_run_and_its_data_in_folders_of_odd_names(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPT_CACHE", str(tmp_path / f"cache {NO_UTF8},=1"))
    name = f"a=b,c (1)#%ü'{NO_UTF8}"
    for k, folder in enumerate((name, "b")):
        (tmp_path / name / "pics" / folder).mkdir(parents=True)
        for i in range(15):
            Image.new("RGB", (8, 8), (100 * k, i, 0)).save(tmp_path / name / "pics" / folder / f"{i}{name}.png")
    (tmp_path / name / "pics" / "b" / f"bad{name}.png").write_text("no image")
    few = (
        "data=folder", "data.source.resolution=8", "tokenizer.size=8", "model.n_layer=1", "model.n_embd=32",
        "objective=classify", "objective.task=ar", "data.num_workers=0", "data.batch_size=4", "trainer=cpu",
        "trainer.max_steps=1", "logger=tensorboard", "data.max_unreadable=0.1", "callbacks=none",
    )  # fmt: skip
    run_command("train", *few, "data.source.path=pics", f"hydra.run.dir=out/{name}", cwd=tmp_path / name)
    run = tmp_path / name / "out" / name
    assert (run / "summary.json").exists()
    assert (run / "figures" / "confusion.png").exists()
    (report,) = (tmp_path / f"cache {NO_UTF8},=1" / "packed").glob("*/unreadable.txt")
    assert report.read_bytes() == os.fsencode(f"{tmp_path}/{name}/pics/b/bad{name}.png: its format is unknown\n")

    moved = Path(shutil.move(tmp_path / name / "out", tmp_path / "elsewhere")) / name  # data.source.path was relative
    run_command("train", f"run={moved}", "trainer.max_steps=2", cwd=tmp_path)
    run_command("evaluate", f"run=elsewhere/{name}", cwd=tmp_path)
    run_command("sample", f"run=elsewhere/{name}", "n=0", f"images={tmp_path}/{name}/pics/b/1{name}.png", cwd=tmp_path)
    assert (moved / "evaluation" / "test.json").exists()
    assert list(moved.glob("generated/*/completions.png"))


def test_names_that_are_no_utf8_are_printable(tmp_path):
    for name in (NO_UTF8, "b"):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.new("L", (2, 2), i).save(tmp_path / name / f"{i}.png")
    classes = ImageFolderSource(str(tmp_path)).classes
    assert classes == ("b", "r\\udcff\\udce4n")
    assert printable("ü") == "ü"
    assert all_printable({"a": [NO_UTF8, 1]}) == {"a": [classes[1], 1]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["igpt-train", NO_UTF8])
        with printable_arguments():
            assert sys.argv == ["igpt-train", classes[1]]
        assert sys.argv == ["igpt-train", NO_UTF8]


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user without a home, a name, or an entry in the list of users."""

    def nobody(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "IGPT_CACHE"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)


def test_a_user_without_a_home(homeless, command, tmp_path):
    with pytest.raises(KeyError):
        getpass.getuser()
    home = tmp_path / "temporary" / f"igpt-home-{os.getuid()}"
    assert expand_user("~/.cache") == home / ".cache"
    ensure_home()
    assert Path.home() == home
    assert getpass.getuser() == str(os.getuid())
    assert "palette.npz" in command("palette", "data=emoji", "data.source.resolution=8", "tokenizer.size=4")
    assert (home / ".cache" / "igpt" / "palettes").is_dir()
