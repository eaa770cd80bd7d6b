"""Models by name: the one that comes with igpt, and others by URL."""

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

import igpt
from igpt.errors import IgptError
from igpt.files import sha256
from igpt.registry import FOLDER, MODELS, TABLE, NamedModel
from igpt.registry.enter import files_and_figures

NANO = FOLDER / "emoji-nano"


def test_the_files_are_those_of_the_table():
    entry = json.loads(TABLE.read_text())["emoji-nano"]
    assert {**entry, **files_and_figures(NANO)} == entry
    assert set(entry["files"]) == {"README.md", "igpt.json", "model.safetensors"}
    assert (NANO / "model.safetensors").stat().st_size < 3e6
    card = (NANO / "README.md").read_text()
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["license"] == entry["license"].lower() == "apache-2.0"
    assert f"| {entry['figures']['test/nats_per_token']:.4f} |" in card


def test_the_figure_is_measured_again_on_the_data_that_it_brings(command, tmp_path):
    printed = command("evaluate", "run=emoji-nano")
    assert "Results are in outputs/emoji-nano/evaluation" in printed
    measured = json.loads((tmp_path / "outputs" / "emoji-nano" / "evaluation" / "test.json").read_text())
    expected = json.loads((NANO / "igpt.json").read_text())["results"]
    assert measured == pytest.approx(expected, abs=1e-3)
    assert measured["test/images"] == 314


def test_commands_take_the_name(command, tmp_path):
    printed = command("sample", "run=emoji-nano", "n=1", "n_images=1", "completions=1")
    assert "Results are in outputs/emoji-nano/generated" in printed
    command("export", "run=emoji-nano", "output=mine", "format=igpt")
    np.testing.assert_array_equal(igpt.load(tmp_path / "mine").sample(1), igpt.load("emoji-nano").sample(1))
    with pytest.raises(SystemExit, match="There is no run at emoji-nano to resume; .* init_from=emoji-nano"):
        command("train", "run=emoji-nano")
    with pytest.raises(SystemExit, match="There is no run at emoji-nan; did you mean the model emoji-nano?"):
        command("sample", "run=emoji-nan")


def test_a_folder_of_the_same_name_comes_first(command, trained, tmp_path, monkeypatch):
    command("export", f"run={trained}", "output=emoji-nano", "format=igpt")
    monkeypatch.chdir(tmp_path)
    assert igpt.load("emoji-nano").resolution == 8
    monkeypatch.chdir(tmp_path.parent)
    assert igpt.load("emoji-nano").resolution == 16


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def distant(monkeypatch, tmp_path):
    """The URL of a server that has the files of emoji-nano, and a model of the table by this URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(FOLDER)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/emoji-nano/"
    monkeypatch.setenv("IGPT_DATA", str(tmp_path / "data"))
    monkeypatch.setitem(MODELS, "distant", NamedModel(MODELS["emoji-nano"].files, "Apache-2.0", {}, url))

    def stop():
        server.shutdown()
        server.server_close()
        thread.join()

    yield stop
    if thread.is_alive():
        stop()


def test_a_model_by_url_is_downloaded_once(distant, tmp_path):
    expected = igpt.load("emoji-nano").sample(1)
    np.testing.assert_array_equal(igpt.load("distant").sample(1), expected)
    folder = tmp_path / "data" / "models" / "distant"
    assert {file.name: sha256(file) for file in folder.iterdir() if file.suffix != ".lock"} == MODELS["distant"].files
    distant()
    np.testing.assert_array_equal(igpt.load("distant").sample(1), expected)


def test_a_wrong_checksum_and_no_network_leave_nothing(distant, tmp_path, monkeypatch):
    entry = MODELS["distant"]
    wrong = NamedModel({"igpt.json": 64 * "0"}, entry.license, {}, entry.url)
    monkeypatch.setitem(MODELS, "wrong", wrong)
    with pytest.raises(IgptError, match=f"{entry.url}igpt.json sent does not have the checksum sha256:0+ and was del"):
        igpt.load("wrong")
    distant()
    with pytest.raises(IgptError, match=f"downloading it from {entry.url}README.md failed"):
        igpt.load("distant")
    assert [file for file in (tmp_path / "data").rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_a_run_of_the_same_place_does_not_hinder_a_model(trained, tmp_path, monkeypatch):
    """Results of a model go to outputs/NAME, where a run with another palette may be."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "outputs" / "emoji-nano")
    assert igpt.load("emoji-nano").tokenizer.vocab_size == 128
