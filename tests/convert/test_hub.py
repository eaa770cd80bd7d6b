"""Models of the Hugging Face Hub, with a Hub of our own in the place of its library."""

import shutil
import sys
from types import SimpleNamespace

import pytest

import igpt
from igpt.errors import IgptError
from igpt.run_directory import is_hub_name


@pytest.fixture
def hub(command, trained, tmp_path, monkeypatch):
    """A Hub with the model someone/emoji; `hub.calls` are the patterns of the files that are asked for."""
    command("export", f"run={trained}", "output=published")
    calls, uploads = [], {}

    def snapshot_download(name, allow_patterns):
        calls.append(allow_patterns)
        if name != "someone/emoji":
            raise ConnectionError(f"404 Client Error for {name}.\nA second line")
        return str(tmp_path / "published")

    class HfApi:
        def create_repo(self, name, exist_ok):
            if name.startswith("stranger"):
                raise PermissionError("403 Forbidden")
            return f"https://huggingface.co/{name}"

        def upload_folder(self, repo_id, folder_path):
            uploads[repo_id] = {path.name for path in folder_path.iterdir()}

    library = SimpleNamespace(snapshot_download=snapshot_download, HfApi=HfApi, calls=calls, uploads=uploads)
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    monkeypatch.chdir(tmp_path)
    return library


def test_a_name_of_the_hub_is_a_run(hub, command, trained):
    loaded = igpt.load("someone/emoji", device="cpu")
    assert loaded.tokenizer.fingerprint == igpt.load(trained).tokenizer.fingerprint
    assert not any("*.bin" in patterns for patterns in hub.calls)
    printed = command("sample", "run=someone/emoji", "n=1", "completions=0")
    assert "Results are in outputs/someone/emoji/generated" in printed
    with pytest.raises(SystemExit, match="someone/emoji is a model without data"):
        command("evaluate", "run=someone/emoji")


def test_pickled_weights_are_only_asked_for_if_there_are_no_others(hub, tmp_path):
    (tmp_path / "published" / "model.safetensors").unlink()
    with pytest.raises(IgptError, match="has no weights"):
        igpt.load("someone/emoji")
    assert [("*.bin" in patterns, "*.safetensors" in patterns) for patterns in hub.calls] == [
        (False, True),
        (True, False),
    ]


def test_a_model_is_uploaded(hub, command, trained):
    printed = command("export", f"run={trained}", "output=mine", "push_to=me/mine")
    assert "Uploaded to https://huggingface.co/me/mine" in printed
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert hub.uploads == {"me/mine": names}
    with pytest.raises(SystemExit, match=r"other is written, but .* as stranger/x \(403 Forbidden\); check"):
        command("export", f"run={trained}", "output=other", "push_to=stranger/x")
    with pytest.raises(SystemExit, match="push_to is mine; it must be OWNER/NAME on the Hugging Face Hub"):
        command("export", f"run={trained}", "output=third", "push_to=mine")


def test_no_network_or_no_such_model(hub):
    with pytest.raises(IgptError) as caught:
        igpt.load("someone/else")
    assert str(caught.value).startswith(
        "There is no someone/else here, and the Hugging Face Hub did not serve it (404 Client Error for someone/else); "
    )


def test_a_name_of_the_hub_is_not_resumed(hub, command):
    with pytest.raises(SystemExit, match="There is no run at someone/emoji to resume"):
        command("train", "run=someone/emoji")
    assert hub.calls == []


def test_without_the_library(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(IgptError, match=r"pip install 'igpt\[hub\]'"):
        igpt.load("someone/emoji")


def test_what_may_be_a_path_is_no_name_of_the_hub(hub, tmp_path):
    (tmp_path / "outputs").mkdir()
    for path in ("outputs/typo", "published/typo", "./a/b", "a", "a/b/c", "/a/b", "~/b", "a/b.ckpt/"):
        assert not is_hub_name(path), path
    with pytest.raises(IgptError, match="There is no run at outputs/typo"):
        igpt.load("outputs/typo")
    assert hub.calls == []
    assert is_hub_name("openai/imagegpt-small")
    shutil.rmtree(tmp_path / "outputs")
    assert is_hub_name("outputs/typo")
