"""The Python in the README and the tutorials runs as it stands there."""

import itertools
import re
import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "docs/adapt.md",
    "docs/losses.md",
    "docs/models_out.md",
    "docs/extend.md",
    "docs/new_domains.md",
    "docs/papers/cg-vlm.md",
    "docs/papers/distill-ood.md",
    "docs/papers/ogen.md",
    "docs/video.md",
    "docs/sound.md",
    "docs/vision_language.md",
    "docs/tutorials/your_own_pairs.md",
    "docs/tutorials/a_new_objective.md",
]


@pytest.mark.usefixtures("no_drawings")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    scope = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec"), scope)


@pytest.mark.parametrize(
    "page", [p.relative_to(ROOT) for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]], ids=str
)
def test_links_between_pages_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_commands_in_pages_are_commands():
    from nearfar.cli import COMMANDS

    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for command in re.findall(r"^\s*(?:\$ )?nearfar ([a-z]+)", page.read_text("utf-8"), re.MULTILINE):
            assert command in COMMANDS, f"{page}: nearfar {command}"


def commands_in(text):
    """The words of each command of a page, and whether it stands in a block to be pasted or is named in a sentence."""
    blocks = "\n".join(re.findall(r"```(?:bash|sh|console)\n(.*?)```", text.replace("\\\n", " "), re.DOTALL))
    sentences = "\n".join(re.findall(r"(?<!`)`(nearfar [a-z][^`\n]*)`", text))
    for part, pasted in ((blocks, True), (sentences, False)):
        for command in re.findall(r"^\s*(?:\$ )?(?:[A-Z_]+=\S+ )*nearfar ([a-z].*)", part, re.MULTILINE):
            words = shlex.split(command, comments=True)
            yield list(itertools.takewhile(lambda word: word not in ("|", ">", "&&", "&"), words)), pasted


def test_commands_in_pages_have_the_words_and_flags_that_they_take(capsys):
    from nearfar import cli
    from nearfar.signatures import flags

    count = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for (command, *words), pasted in commands_in(page.read_text("utf-8")):
            if "--help" in words:
                continue
            function, count = cli.load(command), count + 1
            raw = getattr(function, "raw", False)
            parser = sys.modules[function.__module__].parser() if raw else flags.of(function, f"nearfar {command}")
            try:
                parser.parse_args(words)
            except SystemExit:
                # A sentence may name a command, or one flag of it, without the rest.
                said = capsys.readouterr().err
                assert not pasted, f"{page.name}: nearfar {command} {' '.join(words)}: {said}"
                assert "too many" not in said, f"{page.name}: nearfar {command} {' '.join(words)}: {said}"
                assert "no flag" not in said, f"{page.name}: nearfar {command} {' '.join(words)}: {said}"
    assert count > 80


def test_every_setting_of_a_recipe_has_a_row():
    from dataclasses import fields

    from nearfar.evaluation.protocols import PROTOCOLS
    from nearfar.methods import METHODS, find
    from nearfar.models import create
    from nearfar.training.config import TrainConfig
    from nearfar.training.recipe.sections import DataConfig, EvaluationConfig, ModelSettings, known_arguments
    from nearfar.training.recipe.staged_recipe import StageSettings

    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    parts = {part.partition("\n")[0]: part for part in page.split("\n## ")}
    settings = {
        "data": [field.name for field in fields(DataConfig)],
        "model": [*(field.name for field in fields(ModelSettings)), *known_arguments(create)],
        "method": [name for method in METHODS for name in known_arguments(find(method), ["model"])],
        "training": [field.name for field in fields(TrainConfig)],
        "evaluation": [
            *(field.name for field in fields(EvaluationConfig)),
            # The page on extending adds a protocol of its own, where its code runs in this process.
            *(o.name for p in PROTOCOLS.values() if str(p.measure).startswith("nearfar.") for o in p.options),
        ],
        "stages": [field.name for field in fields(StageSettings)],
    }
    for section, names in settings.items():
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| ([A-Z0-9`\"'(].*)\. \|$", parts[section], re.MULTILINE)
        assert set(names) <= {row[0] for row in rows}, section
    assert "settings.md" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert "(settings.md)" in (ROOT / "docs" / "training.md").read_text("utf-8")


def test_every_surprise_has_a_script_with_versions_and_a_row():
    rows = set(re.findall(r"^\| `([a-z0-9_]+\.sh)`", (ROOT / "docs" / "surprises.md").read_text("utf-8"), re.M))
    scripts = {path.name: path for path in (ROOT / "findings").iterdir()}
    assert rows == set(scripts)
    for name, path in scripts.items():
        text = path.read_text("utf-8")
        packages = [word for line in re.findall(r"pip install (.*)", text) for word in line.split() if word[0] != "-"]
        assert packages, name
        assert all("==" in each or each == ":all:" for each in packages), f"{name}: pin every package"
        assert "import nearfar" not in text, name
        assert path.stat().st_mode & 0o111, f"{name} is to be run"
