"""The drawing of a space of words: its first two principal axes, and what people's ratings are along them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nearfar.evaluation.measures.result import Result
from nearfar.evaluation.report.blocks import Block, Figure, Figures, Note
from nearfar.evaluation.report.figures import draw

NAMED = 60
"""Words that are written out."""
ABOUT = (
    "Each dot is a word, at its place on the two axes along which the words differ most; its colour is the rating "
    "{rating}, from low (dark) to high (light). The sign of an axis is arbitrary. With the first axis the rating goes "
    "by |r| = {first}; with the axis that was chosen on half of the words, number {component}, by {best} on the other "
    "half; told from all numbers of a vector, of words that were not fitted on, by r = {probe}. {words:,} words."
)


def apart(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """The dots whose names are written out: as many as do not lie over one another, from all over the order.

    >>> apart([0.0, 0.01, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    [0, 2, 3]
    """
    width, height = (max(each) - min(each) or 1.0 for each in (x, y))
    kept: list[int] = []
    order = sorted(range(len(x)), key=lambda place: (place * 37) % 101)
    for place in order:
        near = (abs(x[place] - x[k]) < 0.16 * width and abs(y[place] - y[k]) < 0.03 * height for k in kept)
        if len(kept) < NAMED and not any(near):
            kept.append(place)
    return sorted(kept)


def word_map(results: Mapping[str, Result], source: Any) -> list[Block]:
    """The map of the protocol `word_ratings`."""
    result = results["word_ratings"]
    drawn = result.details["map"]
    words, x, y, rating = (drawn[key] for key in ("words", "x", "y", "rating"))

    def paint(axes: Any) -> None:
        axes.scatter(x, y, c=rating, cmap="viridis", s=14, linewidths=0)
        for place in apart(x, y):
            text = words[place] if len(words[place]) < 22 else f"{words[place][:20]}..."
            axes.annotate(
                text, (x[place], y[place]), xytext=(3, 2), textcoords="offset points", fontsize=7, parse_math=False
            )
        axes.set_xlabel("first axis")
        axes.set_ylabel("second axis")
        axes.margins(0.08)

    describe = f"{len(words)} words on two axes; lowest {words[0]}, highest {words[-1]} by {result.details['rating']}"
    figure = draw(paint, width=7.2, height=5.2, describe=describe, name="word-map")
    shown = {
        key: metric.show(metric.value) for key, metric in ((k, result.metrics[f"{k}_axis"]) for k in ("first", "best"))
    }
    about = ABOUT.format(
        rating=repr(result.details["rating"]),
        component=result.details["component"],
        probe=result.metrics["probe"].show(result["probe"]),
        words=result.details["words"],
        **shown,
    )
    return [Note(about), Figures([Figure(figure, {})])]
