"""README, docs and notes name only files, packages, commands and configuration keys that exist."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from igpt.commands.runs import quoted_filters
from igpt.configuration.path_arguments import quote_paths

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "igpt"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += [page for folder in ("docs", "experiments") for page in (ROOT / folder).glob("*.md")]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
PLACEHOLDERS = {"NAME": "emoji", "K": "8", "FILE": "palette.npz", "VALUE": "1"}
EXAMPLES = ("my_", "mine")  # names in docs/extending.md, whose own test runs the examples


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(\s*([^)\s]+)\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in heading_anchors(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("page", TEXTS)
def test_named_files_exist(page):
    whole = re.findall(r"(?<![\w/.-])((?:src|conf|docs|experiments|benchmarks|examples)/[\w./-]*\w/?)", TEXTS[page])
    whole = [name for name in whole if "NAME" not in name]
    code = [name for name in re.findall(r"`([\w./]+\.(?:py|c))`", TEXTS[page]) if not name.startswith(EXAMPLES)]
    assert [name for name in whole if not (ROOT / name).exists()] == []
    assert [name for name in code if not ((ROOT / name).exists() or any(PACKAGE.rglob(name)))] == []


def test_the_architecture_lists_every_package_and_module():
    cells = [line.split("|")[1] for line in TEXTS["docs/architecture.md"].splitlines() if line.startswith("| `")]
    listed = {name for cell in cells for name in re.findall(r"`(\w+(?:/|\.py))`", cell)}
    packages = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")}
    modules = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert listed == packages | modules


def commands() -> list[str]:
    """What follows `igpt-` in all lines of code and in backticks, without comments."""
    text = "\n".join(TEXTS.values())
    code = re.findall(r"^    (\S.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
    calls = [re.fullmatch(r"(?:\.venv/bin/)?igpt-([a-z]+(?: .*)?)", line.split("  #")[0].strip()) for line in code]
    return sorted({call[1] for call in calls if call})


def one_value(text: str) -> str | None:
    """An override with one of the values that it sweeps over and with placeholders filled in; None to leave it out."""
    key, _, value = text.partition("=")
    value = PLACEHOLDERS.get(value, value)
    if key in ("experiment", "hydra.launcher.NAME", "KEY") and value in ("emoji", "1"):
        return None
    override = OverridesParser.create().parse_override(f"{key}={value}")
    if override.is_choice_sweep():
        return f"{key}={next(iter(override.sweep_string_iterator()))}"
    return f"{key}=1" if override.is_sweep_override() else f"{key}={value}"


def test_commands_compose():
    with initialize_config_module("igpt.conf", version_base="1.3"):
        for line in commands():
            command, *words = shlex.split(line)
            quoted = quote_paths([quoted_filters(word) for word in words])
            overrides = [one_value(word) for word in quoted if "=" in word]
            assert compose(command, overrides=list(filter(None, overrides)), return_hydra_config=True), line


def test_the_command_of_the_readme_trains_on_a_folder_of_images(command, tmp_path):
    (line,) = re.findall(r"^    igpt-train (.* data=folder .*)$", TEXTS["README.md"], re.MULTILINE)
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    words = shlex.split(line.replace("=FOLDER", f"={tmp_path}"))
    tiny = ("model.n_layer=1", "trainer.max_steps=2", "optim.warmup_steps=1", "logger=none", "hydra.run.dir=run")
    command("train", *[word for word in words if not word.startswith("trainer.max_steps=")], *tiny)
    assert (tmp_path / "run" / "summary.json").exists()


def leaves(values: object, prefix: str) -> set[str]:
    """The dotted keys in nested dictionaries, those of inner ones included."""
    if not isinstance(values, dict):
        return set()
    return {f"{prefix}{k}" for k in values} | {key for k, v in values.items() for key in leaves(v, f"{prefix}{k}.")}


def known_keys() -> set[str]:
    """The dotted keys in the files of conf/; data_base.yaml has those of the group data."""
    found = set()
    for path in (ROOT / "conf").rglob("*.yaml"):
        text, folder = path.read_text(encoding="utf-8"), path.relative_to(ROOT / "conf").parts[:-1]
        group = [path.stem.removesuffix("_base")] if path.stem.endswith("_base") else folder
        if package := re.match("# @package (.+)", text):
            group = [] if package[1] == "_global_" else [package[1]]
        found |= leaves(yaml.safe_load(text), "".join(f"{g}." for g in group))
    return found


@pytest.mark.parametrize("page", TEXTS)
def test_named_keys_exist(page):
    keys, groups = known_keys(), "data|optim|trainer|sampling|objective|callbacks|logger|tokenizer|model|probe"
    named = re.findall(rf"[`\s~]((?:{groups})\.[a-z_.]*[a-z_])(?:=|`)", TEXTS[page])
    assert [name for name in named if name not in keys and not name.endswith((".gz", ".safetensors"))] == []


def test_the_python_in_the_readme_gives_the_shapes_in_its_comments(trained, tmp_path):
    Image.new("RGB", (20, 30)).save(tmp_path / "a.png")
    code = "".join(re.findall(r"^```python\n(import igpt\n.*?)^```", TEXTS["README.md"], re.MULTILINE | re.DOTALL))
    for ours, theirs in {"outputs/emoji_modern/demo": trained, "holiday/": tmp_path, "layer=3": "layer=1"}.items():
        assert ours in code
        code = code.replace(ours, str(theirs))
    names, checked = {"R": 8, "N": 1, "width": 32}, 0
    for line in filter(None, code.splitlines()):
        exec(line, names)
        call, _, comment = line.partition("  # ")
        if shape := re.search(r"\(.+?\)", comment):
            assert np.shape(eval(call, names)) == eval(shape[0], names), line
            checked += 1
    assert checked == 5
