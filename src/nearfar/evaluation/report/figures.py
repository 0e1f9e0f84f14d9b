"""The drawings: matplotlib SVGs that take their ink from the page, so that they suit light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

PALETTE = ("#3b82c4", "#d9822b", "#3a9d6e", "#c4609f", "#8a72d0", "#c9a227", "#3fa7b5", "#a0694b", "#8b939c")
INK, SOFT, RULE = "#010203", "#040506", "#070809"
"""Stand-ins that no drawing uses otherwise; each becomes a colour of the page."""

Rows = Sequence[dict[str, Any]]


def draw(paint: Callable[[Any], None], *, width: float, height: float, describe: str, name: str) -> Markup:
    """Paint on empty axes and return an inline SVG.

    Args:
        paint: draws on the axes it is given.
        width, height: in inches, at 100 dots each; the SVG scales to the width it is given.
        describe: what a reader who cannot see it should know.
        name: unique on the page; keeps the ids of different drawings apart.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": SOFT,
        "axes.edgecolor": RULE,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": SOFT,
        "ytick.color": SOFT,
        "grid.color": RULE,
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        paint(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), describe)


def curves(history: Rows, name: str = "curve") -> list[tuple[Markup, dict[str, str]]]:
    """An SVG and its legend for each figure of the training history, training and validation of the same together.
    `name` keeps several histories of a page apart."""
    figures = [key for key in dict.fromkeys(key for row in history for key in row) if _is_curve(key, history)]
    panels: dict[str, list[str]] = {}
    for figure in figures:
        panels.setdefault(figure.removeprefix("val_"), []).append(figure)
    # The loss comes first, then what validation measured, then the rest in the order it was logged.
    order = sorted(panels, key=lambda panel: (panel != "loss", not any(n.startswith("val_") for n in panels[panel])))
    return [_curve(panel, panels[panel], history, f"{name}{i}") for i, panel in enumerate(order[:12])]


MAP = (7.2, 4.4)
"""Width and height of a map."""


def scatter(
    points: NDArray[np.float64], kind: Sequence[str], colours: dict[str, str], *, describe: str, name: str
) -> Markup:
    """A map of points `[n, 2]`, coloured by kind; without axes, as its directions mean nothing. It fills the drawing:
    `places_on` says where each point lies."""
    kinds = np.asarray(kind)
    (left, right), (bottom, top) = _limits(points)

    def paint(axes: Any) -> None:
        axes.set_position((0, 0, 1, 1))
        for one, colour in colours.items():
            chosen = points[kinds == one]
            axes.scatter(chosen[:, 0], chosen[:, 1], s=13, c=colour, alpha=0.75, linewidths=0)
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)

    return draw(paint, width=MAP[0], height=MAP[1], describe=describe, name=name)


def places_on(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[n, 2]`: where `scatter` draws points, in percent from the left and the top.

    >>> places_on(np.array([[0.0, 0.0], [7.2, 0.0], [3.6, 4.4]])).round(1).tolist()
    [[3.0, 97.0], [97.0, 97.0], [50.0, 3.0]]
    """
    (left, right), (bottom, top) = _limits(points)
    return 100 * np.stack([(points[:, 0] - left) / (right - left), (top - points[:, 1]) / (top - bottom)], axis=1)


def _limits(points: NDArray[np.float64], margin: float = 0.03) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of both axes, with one scale for both, the points in the middle and a margin round them."""
    low, high = points.min(axis=0), points.max(axis=0)
    middle, size = (low + high) / 2, np.maximum((high - low) / np.asarray(MAP), 1e-9)
    half = size.max() * np.asarray(MAP) / 2 / (1 - 2 * margin)
    (left, bottom), (right, top) = (middle - half).tolist(), (middle + half).tolist()
    return (left, right), (bottom, top)


def histograms(series: dict[str, NDArray[np.float64]], *, label: str, describe: str, name: str) -> Markup:
    """Densities over one axis, in the order of the palette."""
    low = min(float(values.min()) for values in series.values())
    high = max(float(values.max()) for values in series.values())
    edges = np.linspace(low, max(high, low + 1e-3), 48)

    def paint(axes: Any) -> None:
        for colour, values in zip(PALETTE, series.values(), strict=False):
            axes.hist(values, bins=edges, density=True, color=colour, alpha=0.6, linewidth=0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(label)

    return draw(paint, width=4.2, height=2.6, describe=describe, name=name)


def _curve(title: str, names: Sequence[str], history: Rows, called: str) -> tuple[Markup, dict[str, str]]:
    series = {name: _points(name, history) for name in names}

    def paint(axes: Any) -> None:
        for colour, (x, y) in zip(PALETTE, series.values(), strict=False):
            axes.plot(x, y, color=colour, linewidth=1.6, marker="o" if len(x) < 12 else None, markersize=3)
        axes.grid(axis="y")
        axes.set_title(title.replace("_", " "))
        axes.set_xlabel("step")

    ends = "; ".join(f"{name} ends at {y[-1]:.4g}" for name, (_, y) in series.items())
    describe = f"{title.replace('_', ' ')} over training steps; {ends}"
    legend = {
        f"{'validation' if name.startswith('val_') else 'training'}, at the end {y[-1]:.4g}": colour
        for colour, (name, (_, y)) in zip(PALETTE, series.items(), strict=False)
    }
    return draw(paint, width=4.2, height=2.4, describe=describe, name=called), legend


def _points(name: str, history: Rows, most: int = 800) -> NDArray[np.float64]:
    """`[2, n]`: steps and values, thinned to about `most`, the last one kept."""
    points = [(row.get("step", i), row[name]) for i, row in enumerate(history) if _is_number(row.get(name))]
    thinned = points[:: 1 + len(points) // most]
    return np.asarray(thinned if thinned[-1] == points[-1] else [*thinned, points[-1]], dtype=np.float64).T


def _is_curve(name: str, history: Rows) -> bool:
    """Whether a figure changes over at least two rows; counters of time are not worth a curve."""
    if name in ("step", "epoch", "seconds", "samples"):
        return False
    values = [row[name] for row in history if _is_number(row.get(name))]
    return len(values) > 1 and min(values) < max(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _inline(svg: str, describe: str) -> Markup:
    """The drawing as part of a page. matplotlib has escaped the words in it; those of `describe` are escaped here."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for stand_in, variable in ((INK, "var(--ink)"), (SOFT, "var(--soft)"), (RULE, "var(--rule)")):
        svg = svg.replace(stand_in, variable)
    # The page's own font, whatever it is, is near enough in width to the one that the layout was made with.
    svg = re.sub(r"font: (?:\d+ )?([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    opening = Markup('<svg role="img" aria-label="{}" ').format(describe)
    return Markup(svg.replace("<svg ", opening, 1))
