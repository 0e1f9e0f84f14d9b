"""What a user is told: one style of quotes in every message, and never the text of another library."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nearfar
from nearfar.errors import UserError
from nearfar.files import why

SOURCES = Path(nearfar.__file__).parent
COMMAND = re.compile(r"pip install \"nearfar\[|trust=\[\"")
TO_TYPE = re.compile(r"`(nearfar|apt|accelerate|hf|import) [^`]*`")


def words(node: ast.expr) -> str:
    """The text of a message, `{}` for each value in it; `{!r}` where it is written as Python writes it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        values = (v if isinstance(v, ast.Constant) else None for v in node.values)
        return "".join("{}" if v is None else str(v.value) for v in values)
    return ""


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    """The files of the house in which an error is made."""
    texts = {str(file.relative_to(SOURCES)): file.read_text("utf-8") for file in sorted(SOURCES.rglob("*.py"))}
    return {name: ast.parse(text) for name, text in texts.items() if "UserError" in text}


def messages(trees: dict[str, ast.Module]) -> Iterator[tuple[str, str]]:
    """Where each message stands, and its words."""
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "UserError":
                for part in node.args:
                    yield f"{name}:{node.lineno}", words(part)


def bad_quotes(text: str) -> bool:
    """Whether a name or a value stands in double quotes or backticks: these are of commands that are to be typed."""
    return bool(re.search(r"[\"`]", TO_TYPE.sub("", COMMAND.sub("", text).replace('"]', "").replace(']"', ""))))


def test_names_and_values_stand_in_single_quotes(trees: dict[str, ast.Module]) -> None:
    every = list(messages(trees))
    assert len(every) > 900
    assert [f"{place}: {text}" for place, text in every if bad_quotes(text)] == []
    # A value between quotes of our own would be wrong where it holds one itself: it is written with !r.
    assert [f"{place}: {text}" for place, text in every if "'{}'" in text] == []


@pytest.mark.parametrize("text", ['must be "mean"', "needs `text`", 'is "{}"'])
def test_the_rule_sees_other_quotes(text: str) -> None:
    assert bad_quotes(text)


OWN = {"UserError", "BadRecord", "BadImage", "Unfit"}
"""Errors whose words are ours."""


def raw_texts(tree: ast.AST) -> Iterator[ast.AST]:
    """Messages that hold the text of an error that is not our own, inside the handler that caught it."""
    for handler in ast.walk(tree):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        caught = ast.unparse(handler.type) if handler.type is not None else ""
        if caught in OWN or (caught == "ValueError" and "startswith('recipe, ')" in ast.unparse(handler)):
            continue
        for call in ast.walk(handler):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "UserError":
                for value in ast.walk(call):
                    shown = isinstance(value, ast.FormattedValue) and ast.unparse(value.value) == handler.name
                    called = isinstance(value, ast.Call) and ast.unparse(value) == f"str({handler.name})"
                    if shown or called:
                        yield call


def test_no_text_of_another_library_in_a_message(trees: dict[str, ast.Module]) -> None:
    raw = [
        f"{name}:{call.lineno}"  # type: ignore[attr-defined]
        for name, tree in trees.items()
        for call in raw_texts(tree)
    ]
    assert raw == []


def test_the_rule_sees_a_text_that_is_handed_on() -> None:
    wrong = "try:\n    f()\nexcept (OSError, ValueError) as e:\n    raise UserError(f'no file: {e}') from e"
    assert len(list(raw_texts(ast.parse(wrong)))) == 1


class LocalEntryNotFoundError(Exception):
    """As the hub's client calls what it has not kept, without a network."""


class RepositoryNotFoundError(Exception):
    """As the hub's client calls a name that is not there."""


def raised(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as made:
        return made


@pytest.mark.parametrize(
    ("error", "right"),
    [
        (raised(OSError("We couldn't connect"), LocalEntryNotFoundError("x")), "the hub cannot be reached"),
        (raised(OSError("not a valid identifier"), RepositoryNotFoundError("401")), "no such folder here, nor such"),
        (ModuleNotFoundError("No module named 'tiktoken.x'", name="tiktoken.x"), "'tiktoken' is missing: install it"),
        (MemoryError("Unable to allocate"), "does not fit into the memory"),
        (RuntimeError("operator torchvision::nms does not exist"), "pip uninstall torchvision"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deep"),
        (OSError(28, "No space left on device"), "the disk is full"),
        (FileNotFoundError(2, "No such file or directory", "a/b.json"), "a/b.json is missing"),
        (UserError("image: name a column"), "image: name a column"),
        (ValueError("Did not validate against any of the Union subtypes"), "OTHERWISE"),
    ],
)
def test_why(error: Exception, right: str) -> None:
    said = why(error, "OTHERWISE")
    assert right in said
    assert str(error) not in said or isinstance(error, UserError)


def damaged_weights(folder: Path) -> None:
    from nearfar.models.weight_files import read_weights

    (folder / "model.safetensors").write_bytes(b"no tensors in here, but long enough for a head of a file")
    read_weights(folder / "model.safetensors")


def no_json(folder: Path) -> None:
    from nearfar.models.model_folder import read_config

    (folder / "config.json").write_text('{"a": }')
    read_config(folder)


def no_hub_dataset(folder: Path) -> None:
    from nearfar.data import open_source

    open_source("hub:nobody/nothing", cache_dir=str(folder))


def other_wordnet(folder: Path) -> None:
    from nearfar.data.wordnet import Nouns

    (folder / "index.noun").write_text("dog n x y z\n")
    (folder / "data.noun").write_text("nothing\n")
    Nouns(folder)


def no_tokenizer(folder: Path) -> None:
    from nearfar.data.fields.text import load_tokenizer

    load_tokenizer(folder)


def bad_tokenizer(folder: Path) -> None:
    from nearfar.models.tokenizer_files import read_tokenizer

    (folder / "tokenizer.json").write_text('{"model": 3}')
    read_tokenizer(folder)


def preset_tokenizer(folder: Path) -> None:
    from nearfar.models import create

    create("tiny", tokenizer=str(folder))


def no_model_type(folder: Path) -> None:
    from nearfar.models.towers.backbones import image_tower

    image_tower({"model_type": "no-such-kind"})


def no_checkpoint(folder: Path) -> None:
    from nearfar.training.state.run_checkpoint import weights

    (folder / "method.safetensors").write_bytes(b"no tensors in here, but long enough for a head of a file")
    weights(folder)


def no_embeddings(folder: Path) -> None:
    from nearfar.embedding.embeddings import Embeddings

    (folder / "e.safetensors").write_bytes(b"no tensors in here, but long enough for a head of a file")
    Embeddings.load(folder / "e.safetensors")


def no_results(folder: Path) -> None:
    from nearfar.evaluation import load_results

    (folder / "r.json").write_text("[]")
    load_results(folder / "r.json")


def bad_parquet(folder: Path) -> None:
    from nearfar.data import open_source

    (folder / "t.parquet").write_bytes(b"PAR1 and no more")
    open_source(folder / "t.parquet")


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        (damaged_weights, "copy it anew"),
        (no_json, "line 1, character 7 on: mend it there"),
        (no_hub_dataset, "nobody/nothing.*(check the network|check how it is written|check its name)"),
        (other_wordnet, "copy them anew from WordNet"),
        (no_tokenizer, "give the name of a model, or its folder"),
        (bad_tokenizer, "copy the tokenizer's files from where the model was saved"),
        (preset_tokenizer, "name the folder of one, or its name on the hub"),
        (no_model_type, "check its name and the settings"),
        (no_checkpoint, "remove it"),
        (no_embeddings, "make it with `nearfar embed`"),
        (no_results, "write it with `nearfar evaluate --json`"),
        (bad_parquet, "write or copy it anew"),
    ],
)
def test_our_own_sentence_with_the_remedy(
    wrong: Callable[[Path], None], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The variable alone is read at the import: where an earlier test imported them, they would try for half a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=remedy) as error:
        wrong(tmp_path)
    said, cause = str(error.value), error.value.__cause__
    assert cause is not None
    assert "\n" not in said
    assert not any(len(line) > 8 and line in said for line in str(cause).splitlines())
