"""Every name on the page of text contrast is there: objects, presets, recipes, protocols."""

import re
from importlib import import_module
from pathlib import Path

from nearfar.data.texts.text_views import PRESETS
from nearfar.evaluation.protocols import PROTOCOLS
from nearfar.training.recipe import load

PAGE = (Path(__file__).parents[2] / "docs" / "text_contrast.md").read_text("utf-8")


def resolved(name):
    """The object of a dotted name, or an AttributeError."""
    module, parts = "nearfar", name.split(".")[1:]
    here = import_module(module)
    for part in parts:
        if not hasattr(here, part):
            import_module(f"{module}.{part}")
        here, module = getattr(here, part), f"{module}.{part}"
    return here


def test_every_object_on_the_page_is_there():
    names = set(re.findall(r"`(nearfar(?:\.\w+)+)`", PAGE))
    assert len(names) >= 16
    for name in names:
        assert resolved(name) is not None, name


def test_every_preset_recipe_and_protocol_on_the_page_is_there():
    rows = re.findall(r"`data\.text_views: ([\w-]+)`((?:, `[\w-]+`)*)", PAGE)
    presets = {name for first, more in rows for name in (first, *re.findall(r"`([\w-]+)`", more))}
    assert presets == set(PRESETS)
    listed = re.findall(r"recipes? `([\w-]+)`((?:, `[\w-]+`)*)", PAGE)
    recipes = {name for first, more in listed for name in (first, *re.findall(r"`([\w-]+)`", more))}
    assert len(recipes) == 11
    for name in recipes:
        assert load(name).method["name"] in ("simcse", "whitenedcse", "cless", "consert")
    protocols = re.findall(r"--protocols (\w+)`(?:, `(\w+)`)?", PAGE)
    assert (
        {name for pair in protocols for name in pair if name}
        == {"sts", "pair_retrieval", "geometry", "label_match"}
        <= set(PROTOCOLS)
    )
