"""The house keeps its shape: floors, lengths, light imports, and a command line and tables that agree with the code."""

import ast
import io
import subprocess
import sys
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import nearfar
from nearfar import cli, methods
from nearfar.evaluation.protocols import PROTOCOLS
from nearfar.evaluation.protocols.signature import load
from nearfar.papers import PAPERS
from nearfar.reproductions import module_of
from nearfar.tally import tally

SOURCE = Path(nearfar.__file__).parent
ROOT = SOURCE.parent.parent
FILES = sorted(SOURCE.rglob("*.py"))

# What each floor may import from the house, beside itself and the ground (files at the top).
ALLOWED = {
    "ops": set(),
    "nearest": set(),
    "recipes": set(),
    "papers": set(),
    "signatures": set(),
    "losses": {"ops"},
    "models": {"ops", "data"},
    "data": {"ops"},
    "methods": {"ops", "losses", "models", "data", "prompting"},
    "decoding": {"ops", "data"},
    "embedding": {"ops", "data", "models"},
    "prompting": {"embedding"},
    "classifiers": {"ops", "data", "embedding", "prompting"},
    "evaluation": {"ops", "data", "losses", "embedding", "prompting", "classifiers"},
    "search": {"ops", "data", "embedding", "evaluation", "models", "classifiers", "export"},
    "training": {"ops", "losses", "models", "data", "methods", "embedding", "evaluation"},
    "export": {"data", "models"},
    "adaptation": {"data", "embedding", "evaluation", "methods", "models", "search", "training"},
    "reproductions": None,  # these know all
    "commands": None,
}
GROUND = {
    "console",
    "distributed",
    "errors",
    "files",
    "locks",
    "lookup",
    "nearest",
    "recipes",
    "rgb",
    "signatures",
    "machine",
    "modes",
    "papers",
    "tally",
    "templates",
    "trust",
}


def executed(tree: ast.Module) -> list[ast.AST]:
    """The nodes of a file without those under `if TYPE_CHECKING`."""
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and any("TYPE_CHECKING" in (getattr(n, "id", ""), getattr(n, "attr", "")) for n in ast.walk(node.test))
        for inner in ast.walk(node)
    }
    return [node for node in ast.walk(tree) if node not in typing_only]


def imports(path: Path) -> set[str]:
    """The floors a file imports, wherever in the file it does, but not under `if TYPE_CHECKING`."""
    names = set()
    for node in executed(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("nearfar"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names} & {*ALLOWED, *GROUND}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("nearfar.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_arrow_runs_upward(path):
    floor = path.relative_to(SOURCE).parts[0]
    allowed = ALLOWED.get(floor)
    if floor in ALLOWED and allowed is not None:
        assert imports(path) - GROUND - {floor} <= allowed


def modules() -> dict[str, Path]:
    """Files by dotted name."""
    names = {path: path.relative_to(SOURCE.parent).with_suffix("").as_posix().replace("/", ".") for path in FILES}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imported_modules(path: Path, known: set[str]) -> set[str]:
    """The house's modules that a file imports, at its top or inside functions, but not under `if TYPE_CHECKING`. What
    a table names as text and `import_module` opens, a registry's way, is no import."""
    names = set()
    for node in executed(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in known else node.module for a in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
    return names & known


def test_no_imports_run_in_a_circle():
    by_name = modules()
    open_names = {name: imported_modules(path, set(by_name)) - {name} for name, path in by_name.items()}
    while free := {name for name, needs in open_names.items() if not needs & set(open_names)}:
        open_names = {name: needs for name, needs in open_names.items() if name not in free}
    while unused := set(open_names) - {need for needs in open_names.values() for need in needs}:
        open_names = {name: needs for name, needs in open_names.items() if name not in unused}
    assert {name: sorted(needs & set(open_names)) for name, needs in open_names.items()} == {}


FULL = {
    "losses": (26, "flat, one family a file: a loss is looked for by its name"),
}
"""Rooms of more than fifteen files: how many they may hold, and why they are not two rooms."""


def test_a_room_holds_fifteen_files_at_most_or_says_why_not():
    counts = Counter(path.parent.relative_to(SOURCE).as_posix() for path in FILES if path.name != "__init__.py")
    assert {room: count for room, count in counts.items() if count > FULL.get(room, (15, ""))[0]} == {}
    assert {room for room in FULL if counts[room] <= 15} == set(), "no longer full: take the reason away"


def test_no_file_name_stands_in_two_rooms():
    rooms: dict[str, list[str]] = {}
    for path in FILES:
        rooms.setdefault(path.name, []).append(str(path.parent.relative_to(SOURCE)))
    del rooms["__init__.py"]
    assert {name: where for name, where in rooms.items() if len(where) > 1} == {}


EMPTY_NAMES = {"found", "given", "wanted", "told", "asked", "seen", "lacking", "wishes"}


def names_bound(path: Path) -> dict[str, int]:
    """The names that a file gives to variables, attributes, parameters, functions and classes, with a line of each. The
    name of a test is a sentence, and not among them."""
    bound = {}
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            bound[node.id if isinstance(node, ast.Name) else node.attr] = node.lineno
        elif isinstance(node, ast.arg):
            bound[node.arg] = node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[:5] != "test_":
            bound[node.name] = node.lineno
    return bound


@pytest.mark.parametrize("folder", ["src", "tests", "tools", "examples", "benchmarks"])
def test_names_say_what_they_hold(folder):
    empty = {
        f"{path.relative_to(ROOT)}:{line}": name
        for path in (ROOT / folder).rglob("*.py")
        for name, line in names_bound(path).items()
        if EMPTY_NAMES & set(name.lower().split("_"))
    }
    assert not empty


def test_every_folder_has_its_floor():
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders <= set(ALLOWED)


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "tools"])
def test_no_file_grows_past_one_idea(folder):
    long = {str(p): n for p in (ROOT / folder).rglob("*.py") if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long


def test_baselines_are_read_at_a_glance():
    """What other methods are compared with: each in under a hundred lines."""
    room = ROOT / "src" / "nearfar" / "methods" / "image"
    for name in ("simclr", "moco", "byol", "simsiam", "supervised", "multiview"):
        assert len((room / f"{name}.py").read_text("utf-8").splitlines()) < 100, name


def test_import_stays_light():
    code = (
        "import sys, nearfar, nearfar.data, nearfar.models, nearfar.evaluation, nearfar.decoding, nearfar.search, "
        "nearfar.training, nearfar.methods, nearfar.losses\n"
        "heavy = {'transformers', 'accelerate', 'datasets', 'kornia', 'matplotlib', 'gradio', 'faiss', 'sklearn', "
        "'peft', 'jsonargparse', 'jinja2', 'torchvision'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.strip() == "[]"


BARS = ("tqdm", "alive_progress", "progressbar", "rich.progress", "rich.live", "rich.status")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_only_progress_bar_is_that_of_console(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    own = path.name == "console.py"
    assert own or not [name for name in names if any(name == bar or name.startswith(f"{bar}.") for bar in BARS)]


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    function = cli.load(command)
    assert function.__doc__
    with pytest.raises(SystemExit) as stop:
        cli.run(function, command, ["--help"])
    assert stop.value.code == 0
    assert "usage: nearfar" in capsys.readouterr().out


WITHOUT_TORCH = [
    *([command, "--help"] for command in cli.COMMANDS),
    *([], ["--version"], ["recipes"], ["recipes", "copy", "clip", "{folder}"], ["papers"], ["papers", "--format=json"]),
]


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_words_alone_do_not_wait_for_torch(words, tmp_path):
    """Each in a process of its own: help, and the lists of recipes and papers."""
    code = (
        "import sys\nfrom nearfar import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
    )
    arguments = [word.format(folder=tmp_path) for word in words]
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True, timeout=120)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_row_of_protocols_names_real_things(name):
    row = PROTOCOLS[name]
    assert row.name == name
    load(row.measure)
    if row.examples is not None:
        load(row.examples[1])
    options = {option.name: option for option in row.options}
    assert all(option.help for option in options.values())
    assert {*row.flags.values(), row.own_data or next(iter(row.flags.values()), None)} - {None} <= set(options)
    assert not row.named_classes or "classes" in options


def test_a_reader_that_has_had_enough_is_no_error():
    papers = [sys.executable, "-m", "nearfar", "papers", "--format", "json"]
    with subprocess.Popen(papers, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_papers_fit_a_terminal_of_80_columns():
    from rich.console import Console

    from nearfar.papers import as_table

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table(PAPERS))
    text = console.export_text()
    for paper in PAPERS:
        assert {paper.slug, paper.arxiv, *paper.recipes} <= set(text.split())
        assert all(part in text for part in paper.verdict.split("; "))
    assert f"All claims: {tally([claim for paper in PAPERS for claim in paper.claims])}" in " ".join(text.split())


def test_a_paper_whose_claims_were_not_run_says_so(monkeypatch):
    """In the place of a verdict, and nowhere else."""
    from rich.console import Console

    from nearfar.papers import as_markdown, as_table
    from nearfar.papers.paper import Paper

    paper = next(paper for paper in PAPERS if paper.verdict)
    assert "not re-run yet" not in as_markdown([paper])
    monkeypatch.setattr(Paper, "claims", [])
    assert as_markdown([paper]).count("| not re-run yet |") == 1
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(as_table([paper]))
    assert console.export_text().count("not re-run yet") == 1


def test_unknown_command_lists_the_commands():
    with pytest.raises(SystemExit, match="no command 'trian'"):
        cli.main(["trian"])


def test_every_command_module_is_listed():
    modules = {p.stem.removesuffix("_command") for p in (SOURCE / "commands").rglob("*.py")} - {"__init__"}
    assert modules == set(cli.COMMANDS)


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_is_found(name):
    assert issubclass(methods.find(name), import_module("nearfar.methods.base").Method)


def test_the_table_of_papers_names_real_things():
    assert len(PAPERS) == 31
    assert len({paper.slug for paper in PAPERS}) == len({paper.arxiv for paper in PAPERS}) == 31
    for paper in PAPERS:
        for module in paper.home:
            assert find_spec(module), f"{paper.slug}: {module}"
        for recipe in paper.recipes:
            assert list(SOURCE.glob(f"recipes/*/{recipe}.yaml")), f"{paper.slug}: {recipe}"
        assert (ROOT / "docs" / "papers" / f"{paper.slug}.md").is_file(), paper.slug
        assert find_spec(module_of(paper)), paper.slug
        assert paper.arxiv in (SOURCE / Path(*paper.home[0].split(".")[1:])).with_suffix(".py").read_text("utf-8")


def test_the_generated_tables_are_up_to_date():
    subprocess.run([sys.executable, ROOT / "tools" / "write_tables.py", "--check"], check=True)
