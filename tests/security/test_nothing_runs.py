"""Nothing under src/ executes or imports what a data file names.

Every call that could do so is found here by the syntax tree. What is allowed is listed, each with the reason why the
name it takes is nearfar's own or the user's; a new call fails until somebody has thought about it.
"""

import ast
from pathlib import Path

import pytest

import nearfar

SOURCE = Path(nearfar.__file__).parent

FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "runpy",
    "code",
    "ctypes",
}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "numpy.load", "np.load", "pandas.read_pickle", "torch.hub.load", "torch.jit.load",
}  # fmt: skip
WATCHED = {"import_module", "exec_module", "spec_from_file_location", "SourceFileLoader"}
LOADERS = {"AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "AutoProcessor", "AutoImageProcessor"}

ALLOWED = {
    "__init__.py": "names of the table _LAZY, or of nearfar's own rooms",
    "cli.py": "a command of the table COMMANDS",
    "data/__init__.py": "names of the table _LAZY",
    "data/sources/open_source.py": "a function of nearfar.data, by a table",
    "embedding/__init__.py": "names of the table _LAZY",
    "errors.py": "optional packages, by names that stand in nearfar's own code",
    "evaluation/compositionality/__init__.py": "names of the table _LAZY",
    "evaluation/__init__.py": "names of the table _HOME",
    "evaluation/protocols/signature.py": "the function of a protocol's row, which code writes",
    "methods/__init__.py": "names of the table _CLASSES",
    "models/__init__.py": "names of the table _HOME",
    "models/language/__init__.py": "names of the table _HOME",
    "models/model_folder.py": "a class of the table MODELS",
    "prompting/__init__.py": "names of the table _HOME",
    "reproductions/__init__.py": "slugs of the table of papers",
    "search/__init__.py": "names of the table _LAZY",
    "trust.py": "nearfar's own modules, and those that the command line or the calling program names as trusted",
}
"""Files that import by name, and why the name cannot come from a data file."""


def calls(text):
    """Each call in a program with the dotted name that is called."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def argument_of(node, name):
    return next((ast.unparse(word.value) for word in node.keywords if word.arg == name), None)


def faults(text, allowed=False):
    """What in a program could run something that a file names."""
    for node in ast.walk(ast.parse(text)):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and {a.name for a in node.names} != {"UnpicklingError"}:  # what loads catch
            modules += [node.module] if node.module else []
        yield from (f"imports {name}" for name in modules if name.partition(".")[0] in FORBIDDEN_MODULES)
    for name, node in calls(text):
        last = name.rpartition(".")[2]
        if (
            name in FORBIDDEN_CALLS
            or argument_of(node, "shell") == "True"
            or argument_of(node, "allow_pickle") == "True"
        ):
            yield f"calls {name}"
        if name == "torch.load" and argument_of(node, "weights_only") != "True":
            yield "calls torch.load without weights_only=True"
        if argument_of(node, "trust_remote_code") not in (None, "False"):
            yield f"calls {name} with trust_remote_code"
        loader = name.partition(".")[0].partition("(")[0]
        if (
            last == "from_pretrained"
            and loader in {*LOADERS, "_auto"}
            and argument_of(node, "trust_remote_code") != "False"
        ):
            yield f"calls {name} without trust_remote_code=False, so that transformers would ask, and a yes would run"
        if last in WATCHED and not allowed:
            yield f"calls {name}"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_executes_or_imports_what_a_data_file_names(path):
    expected = ["imports ctypes"] if path.relative_to(SOURCE) == Path("machine.py") else []
    assert list(faults(path.read_text("utf-8"), str(path.relative_to(SOURCE)) in ALLOWED)) == expected


def test_the_settings_of_memory_open_no_library_but_the_one_that_is_loaded():
    text = (SOURCE / "machine.py").read_text("utf-8")
    assert text.count("ctypes") == 2, "the import, and one use of it"
    assert [ast.unparse(node) for name, node in calls(text) if name == "ctypes.CDLL"] == ["ctypes.CDLL(None)"]


def test_the_list_of_what_is_allowed_holds_nothing_else():
    for name in ALLOWED:
        assert any(each.rpartition(".")[2] in WATCHED for each, _ in calls((SOURCE / name).read_text("utf-8"))), name


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "__import__(name)",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "import_module(name)",
        "AutoModel.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "load_dataset(name, trust_remote_code=flag)",
    ],
)
def test_the_search_finds_what_it_is_for(line):
    assert list(faults(line))


def test_the_search_lets_the_rest_through():
    assert not list(faults("model.eval()\nyaml.safe_load(x)\ntorch.load(p, weights_only=True)\nre.compile('a')"))
