"""Pages come from templates that escape every value, and nothing in the house writes markup by hand."""

import ast
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import nearfar
from nearfar import templates
from nearfar.evaluation.report import blocks

SOURCE = Path(nearfar.__file__).parent
EVIL = "<evil a='\">"
"""What opens a tag, or ends an attribute, where it is not escaped."""
PICTURE = blocks.Picture(EVIL, alt=EVIL, title=EVIL, kind=EVIL, remark=EVIL)
BLOCKS = [
    (
        blocks.Table(
            EVIL, [EVIL], [blocks.TableRow(EVIL, [blocks.Cell(EVIL, EVIL), blocks.Cell(EVIL, EVIL, strong=True)])]
        ),
        7,
    ),
    (blocks.Examples([blocks.Example(EVIL, [EVIL], [PICTURE])], EVIL, EVIL), 9),
    (
        blocks.PictureExamples(
            [blocks.PictureExample(PICTURE, [EVIL], [blocks.FoundText(EVIL, "", EVIL)])], EVIL, EVIL
        ),
        7,
    ),
    (blocks.Figures([blocks.Figure(blocks.Markup("<svg></svg>"), {EVIL: EVIL}, EVIL)], wide=True), 3),
    (blocks.Note(EVIL), 1),
    (blocks.Listing(EVIL, [EVIL]), 2),
    (blocks.Verbatim(EVIL), 1),
]


@pytest.mark.parametrize(("block", "values"), BLOCKS, ids=lambda part: type(part).__name__)
def test_every_value_of_a_block_is_escaped(block, values):
    text = templates.render("nearfar.evaluation.report", block.template, block=block)
    assert "<evil" not in text
    assert text.count("&lt;evil a=&#39;&#34;&gt;") == values
    assert ("<svg></svg>" in text) == isinstance(block, blocks.Figures)


def test_every_kind_of_block_has_a_template_of_its_own():
    kinds = [
        kind for kind in vars(blocks).values() if isinstance(kind, type) and isinstance(vars(kind).get("template"), str)
    ]
    assert {kind.template for kind in kinds} == {block.template for block, _ in BLOCKS}


def test_a_value_that_is_not_given_is_an_error():
    with pytest.raises(UndefinedError, match="'block' is undefined"):
        templates.render("nearfar.evaluation.report", "verbatim.html.jinja")


def test_no_markup_is_put_together_by_hand():
    """A tag stands in no f-string and no sum of strings: only in templates, and in `Markup`, whose `format` escapes."""
    blocks = []
    for path in SOURCE.rglob("*.py"):
        text = path.read_text("utf-8")
        if "</" not in re.sub(r"[\s'\"f]", "", text):  # however its strings are split
            continue
        for node in ast.walk(ast.parse(text)):
            joined = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add))
            if joined and re.search(r"</[a-z]", ast.unparse(node)):
                blocks.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert not blocks
