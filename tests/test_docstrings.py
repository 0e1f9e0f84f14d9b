"""Public functions of tensors say what they take: each parameter's shape, a dtype, what they raise, and their source.

What returns tensors says of which dtype. Held for the rooms of tensor functions. A method's docstring and its class's
are read together. Excused are overrides of what a base class documents (`forward`, `embed`, `objective`), and helpers
of `ops` that it does not export.
"""

import ast
import re
from pathlib import Path

import pytest

import nearfar
from nearfar import ops

SOURCE = Path(nearfar.__file__).parent
ROOMS_OF_MODELS = ("models/dual", "models/image", "models/language", "models/towers")
ROOMS = (
    *("losses", "ops", "methods", *ROOMS_OF_MODELS, "models/fusion"),
    *("embedding", "classifiers", "evaluation/measures"),
)
DTYPE = re.compile(r"\b(float\d*|floating|bfloat16|int\d*|integers?|bool(ean)?|long|dtype)\b")
SHAPE = r"\[[^\]\[]*\]"
ORIGIN = re.compile(r"arXiv\s+\d{4}\.\d{4,5}")
WITHOUT_A_PAPER = {
    *("losses/groups.py", "losses/temperature.py"),
    *("methods/base.py", "methods/image_text/ensemble.py", "methods/parts/gathered_features.py"),
    *("methods/parts/pairs.py", "methods/parts/pending.py", "methods/parts/sample_table.py"),
}
"""Parts of the house that no paper describes."""
INHERITED = {"forward", "embed", "objective", "begin", "after_epoch", "check_state"}


def public_functions():
    for room in ROOMS:
        for path in sorted((SOURCE / room).rglob("*.py")):
            if "tiling" in path.parts:
                continue
            exported = ops.__all__ if room == "ops" else None
            tree = ast.parse(path.read_text("utf-8"))
            for node in tree.body:
                if isinstance(node, ast.FunctionDef) and (exported is None or node.name in exported):
                    yield path, tree, None, node
                elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield from ((path, tree, node, inner) for inner in node.body if isinstance(inner, ast.FunctionDef))


def tensors_of(function):
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [
        a.arg
        for a in every
        if a.arg != "state_dict" and a.annotation and re.search(r"\bTensor\b", ast.unparse(a.annotation))
    ]


def returns_tensors(function):
    return function.returns is not None and bool(re.search(r"\bTensor\b", ast.unparse(function.returns)))


def is_tensor_function(owner, function):
    name, overloads = function.name, [ast.unparse(d) for d in function.decorator_list]
    if name.startswith("_") or "overload" in overloads:
        return False
    return bool(tensors_of(function)) or returns_tensors(function)


FUNCTIONS = {
    f"{path.relative_to(SOURCE)}:{owner.name + '.' if owner else ''}{function.name}": (tree, owner, function)
    for path, tree, owner, function in public_functions()
    if is_tensor_function(owner, function)
}


def faults(tree, owner, function):
    own = ast.get_docstring(function) or ""
    text = own + "\n" + (ast.get_docstring(owner) or "" if owner else "")
    inherited = owner is not None and function.name in INHERITED
    missing = []
    for name in tensors_of(function):
        # the name, and a shape within its sentence or entry
        named = re.search(rf"\b{name}\b.{{0,200}}?({SHAPE}|scalar)", text, re.S)
        if not inherited and not named:
            missing.append(f"no shape of {name}")
    if not inherited and not DTYPE.search(text):
        missing.append("no dtype")
    raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(function))
    if raises and not re.search(r"\bRaises?\b", text):
        missing.append("raises, and does not say so")
    return missing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_tensors_says_what_it_takes(name):
    assert faults(*FUNCTIONS[name]) == []


@pytest.mark.parametrize("name", sorted({name.split(":")[0] for name in FUNCTIONS}))
def test_a_file_of_tensor_functions_names_its_source(name):
    if name.startswith(("classifiers", "embedding", "evaluation", *ROOMS_OF_MODELS)) or name in WITHOUT_A_PAPER:
        return
    tree = ast.parse((SOURCE / name).read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    text = "\n".join(ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented))
    assert ORIGIN.search(text), "name the paper as arXiv 1234.56789"


@pytest.mark.parametrize("path", sorted((SOURCE / "losses").rglob("[!_]*.py")), ids=lambda path: path.stem)
def test_a_loss_names_its_relations_and_variants(path):
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    for node in classes:
        if node.name != "Temperature" and not node.name.startswith("_") and "Module" in ast.unparse(node):
            text = ast.get_docstring(node)
            assert "Relations:" in text, node.name
            assert "Variants:" in text, node.name


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(x: Tensor):\n    'The sum.'", ["no shape of x", "no dtype"]),
        (
            "def f(x: Tensor):\n    'The sum of `x` `[N]` float32.'\n    raise ValueError('no')",
            ["raises, and does not say so"],
        ),
        ("def f(x: Tensor):\n    'The sum of `x` `[N]` float32.'", []),
    ],
)
def test_the_check_sees_what_is_missing(code, expected):
    tree = ast.parse(code)
    assert faults(tree, None, tree.body[0]) == expected
