"""What the card of an adapted model says of its data and figures."""

from __future__ import annotations

from nearfar.adaptation.outcome import DIRECTIONS, KS, Adapted
from nearfar.models.card import card
from nearfar.models.towers.backbones import short_name

FIGURES = """Retrieval on {measured_on}, which took no part in it: recall in %, with 95 % intervals.

| | chance | before | linear ridge map | after |
|---|--:|--:|--:|--:|
{rows}"""


def model_card(outcome: Adapted, start_name: str) -> str:
    """A Markdown page with the data, the figures, how to load, and what the model is made of."""
    rows = []
    for direction, words in DIRECTIONS.items():
        for k in KS:
            name = f"{direction}_R@{k}"
            chance = outcome.after.metrics[name].show(outcome.after.metrics[name].chance)
            cells = " | ".join(str(r.metrics[name]) for r in (outcome.before, outcome.ridge, outcome.after))
            rows.append(f"| {words}, R@{k} | {chance} | {cells} |")
    figures = FIGURES.format(measured_on=outcome.measured_on, rows="\n".join(rows))
    if warnings := "\n".join(f"- {warning}" for warning in outcome.warnings()):
        figures += f"\n\n{warnings}"
    return card(
        outcome.model,
        title=f"A model for {outcome.data}",
        about=f"Made from `{short_name(start_name)}`. Adapted to {outcome.adapted_to}.",
        figures=figures,
    )
