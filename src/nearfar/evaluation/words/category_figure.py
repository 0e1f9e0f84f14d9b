"""The drawing of clusters of words: which categories each of them holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.report.blocks import Block, Figure, Figures, Note
from nearfar.evaluation.report.figures import draw

MOST = 40
"""Categories that are drawn, the largest ones: the names of more would lie over each other."""
CALLED = {"kmeans": "k-means", "hierarchy": "the hierarchy"}


def category_figure(results: Mapping[str, Result], source: Any) -> list[Block]:
    """Of each way of clustering a square of categories and clusters: how much of a category lies in which cluster."""
    result = results["word_categories"]
    details = result.details
    names = [str(name) for name in details["categories"]]
    figures = [
        Figure(_drawn(CALLED[way], f"word-{way}", np.array(table), names), {})
        for way, table in details["tables"].items()
    ]
    shown = ", ".join(
        f"{CALLED[way]} {result.metrics[f'{way}_nmi'].show(result[f'{way}_nmi'])}" for way in details["tables"]
    )
    about = (
        f"{details['words']:,} words of {len(names)} categories, in {details['clusters']} clusters that were made "
        "without them. A row is a category, a column a cluster, and the darker a cell, the more of the category's "
        "words are in that cluster; clusters stand in the order of the category that most of their words are of. A "
        "category that is a cluster has one dark cell, alone in its row and column. Mutual information with the "
        f"categories, from 0 to 1: {shown}."
    )
    if len(names) > MOST:
        about += f" The {MOST} largest categories are drawn."
    return [Note(about), Figures(figures, wide=len(names) > 12)]


def ordered(table: NDArray[Any]) -> tuple[list[int], list[int]]:
    """Rows, the largest categories of a table `[categories, clusters]` of counts in their order, and its clusters, each
    after those of the categories before.

    >>> ordered(np.array([[0, 3], [2, 1]]))
    ([0, 1], [1, 0])
    """
    rows = sorted(np.argsort(-table.sum(1), kind="stable")[:MOST].tolist())
    most = table.argmax(0)
    columns = sorted(range(table.shape[1]), key=lambda k: (int(most[k]), -int(table[most[k], k])))
    return rows, [k for k in columns if table[rows, k].any()]


def _drawn(called: str, name: str, table: NDArray[Any], names: list[str]) -> Any:
    rows, columns = ordered(table)
    share = table[np.ix_(rows, columns)] / table[rows].sum(1, keepdims=True)
    labels = [names[row] if len(names[row]) < 26 else f"{names[row][:24]}..." for row in rows]

    def paint(axes: Any) -> None:
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set_yticks(range(len(rows)), labels, fontsize=7)
        axes.set_xticks([])
        axes.set_xlabel(f"clusters of {called}")

    whole = int((share > 0.5).any(1).sum())
    describe = (
        f"Clusters of {called}: {whole} of {len(rows)} categories have more than half of their words in one cluster"
    )
    width = min(9.0, 3.4 + 0.16 * len(columns))
    return draw(paint, width=width, height=1.2 + 0.17 * len(rows), describe=describe, name=name)
