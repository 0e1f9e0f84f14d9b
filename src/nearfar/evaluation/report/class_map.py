"""How classes are related by the gates that training learned for their pairs (Hydra, arXiv 2410.18200): two maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from nearfar.evaluation.report.blocks import Block, Cell, Figure, Figures, Note, Table, TableRow
from nearfar.evaluation.report.figures import draw

NEAREST = 12
"""Pairs of classes in the table."""

UNDECIDED = 0.6
"""Mean entropy above which gates have hardly left 0.5, where they start."""

ABOUT = (
    "A gate says which dimensions are open to a pair of classes. Two classes are related as far as their gates with "
    "the same third classes go together: 1, the filter takes them for one class; 0, they have nothing in common; "
    "below 0, one opens what the other closes. Only the classes' numbers were given, never their names: what is near "
    "here was learned from the pictures. {statistics}"
)


def class_map(file: Path) -> list[Block]:
    """The maps of a run folder's `class_relations.json`, and its nearest classes; nothing where there is none, or where
    it holds something else."""
    relations = _read(file)
    if relations is None:
        return []
    names, relation, activation, statistics, dim = relations
    order = side_by_side(relation)
    called = [names[i] for i in order]
    pairs = nearest(names, relation)
    one = heat_map(
        relation[np.ix_(order, order)],
        called,
        limits=(-1.0, 1.0),
        colours="RdBu",
        describe=f"Relation of {len(names)} classes; the nearest are {pairs[0][0]} and {pairs[0][1]}",
        name="class-relation",
    )
    other = heat_map(
        activation[np.ix_(order, order)],
        called,
        limits=(0.0, float(dim)),
        colours="viridis",
        describe=f"How many of {dim} dimensions are open to each pair of {len(names)} classes",
        name="class-activation",
    )
    said = (
        f"Of {dim} dimensions a pair has {statistics['activation']:.1f} open; {statistics['closed']:.0%} of the gates "
        f"are closed (below 0.1), {statistics['open']:.0%} open (above 0.9); their mean entropy is "
        f"{statistics['entropy']:.3f} (0.693: undecided, 0: open or closed)."
    )
    if statistics["entropy"] > UNDECIDED:
        said += " They are still undecided: what the map shows is mostly how they happened to start. Train longer."
    rows = [TableRow(f"{a}, {b}", [Cell(f"{value:.3f}")]) for a, b, value in pairs[:NEAREST]]
    return [
        Note(ABOUT.format(statistics=said)),
        Figures(
            [
                Figure(one, {}, "Relation of two classes, from -1 (red) to 1 (blue). Neighbours stand side by side."),
                Figure(other, {}, f"Dimensions open to a pair, from 0 (dark) to {dim} (light)."),
            ]
        ),
        Table("nearest classes", ["classes", "relation"], rows),
    ]


def heat_map(
    values: NDArray[np.float64],
    names: list[str],
    *,
    limits: tuple[float, float],
    colours: str,
    describe: str,
    name: str,
) -> Markup:
    """A square map of `values` `[C, C]` with the classes' names on both sides."""
    side = 2.0 + 0.14 * len(names)

    def paint(axes: Any) -> None:
        axes.pcolormesh(values, vmin=limits[0], vmax=limits[1], cmap=colours)
        places = np.arange(len(names)) + 0.5
        short = [text if len(text) < 22 else f"{text[:20]}..." for text in names]
        axes.set_xticks(places, short, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(places, short, fontsize=7, parse_math=False)
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.set_aspect("equal")

    return draw(paint, width=side, height=side, describe=describe, name=name)


def side_by_side(relation: NDArray[np.float64]) -> list[int]:
    """An order of the classes `[C, C]` in which each follows the one that it is nearest to, of those that are left.

    >>> side_by_side(np.array([[1, 0.1, 0.9], [0.1, 1, 0.5], [0.9, 0.5, 1]]))
    [1, 2, 0]
    """
    left = set(range(len(relation)))
    order = [int(relation.sum(1).argmin())]
    left.remove(order[0])
    while left:
        order.append(max(left, key=lambda place: (relation[order[-1], place], -place)))
        left.remove(order[-1])
    return order


def nearest(names: list[str], relation: NDArray[np.float64]) -> list[tuple[str, str, float]]:
    """All pairs of two classes, the most related first."""
    above = zip(*np.triu_indices(len(names), 1), strict=True)
    ranked = sorted(((float(relation[i, j]), int(i), int(j)) for i, j in above), reverse=True)
    return [(names[i], names[j], value) for value, i, j in ranked]


def _read(file: Path) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64], dict[str, float], int] | None:
    try:
        data = json.loads(file.read_text("utf-8"))
        names = [str(name) for name in data["names"]]
        square = (len(names), len(names))
        relation, activation = (np.asarray(data[key], dtype=np.float64) for key in ("relation", "activation"))
        statistics = {key: float(data["statistics"][key]) for key in ("activation", "entropy", "closed", "open")}
        dim = int(data["dim"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    usable = len(names) > 1 and relation.shape == activation.shape == square and np.isfinite(relation).all()
    return (names, relation, activation, statistics, dim) if usable else None
