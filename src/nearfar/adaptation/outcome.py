"""What `nearfar.adapt` found: figures before and after on pairs held out, and what they are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nearfar.adaptation.training_plan import TrainSetting
from nearfar.adaptation.trials import Trial
from nearfar.data.sources.skipped import Skipped
from nearfar.evaluation.measures.result import Result, label
from nearfar.models.dual.dual_encoder import DualEncoder

if TYPE_CHECKING:
    from rich.table import Table

KS = (1, 5, 10)
DIRECTIONS = {"text_to_image": "a text finds its picture", "image_to_text": "a picture finds its text"}


@dataclass
class Adapted:
    """A model that was fitted to somebody's pairs, and the figures that speak for it.

    Attributes:
        model: the model: the adapted one, or the one as it was where that is better.
        tried: every candidate with its score on folds of the pairs adapted to.
        chosen: the one of them that became the model.
        before, ridge, after: retrieval on the pairs held out, by the model as it was, by the linear ridge map alone (a
            plain baseline), and by the adapted model.
        pairs: how many pairs it was adapted to.
        data, measured_on: names of the data.
        skipped: records that could not be used.
        copies: how many pictures measured on are among those adapted to as well.
        kept_start: whether `model` is the one as it was, as the held-out pairs say that it is better.
        seconds: how long all took.
    """

    model: DualEncoder
    tried: list[Trial]
    chosen: Trial
    before: Result
    ridge: Result
    after: Result
    pairs: int
    data: str
    measured_on: str
    skipped: Skipped = field(repr=False)
    copies: int = 0
    kept_start: bool = False
    seconds: float = 0.0

    def __repr__(self) -> str:
        """What it was adapted to, the figures, and what its user must know; not the layers of the model."""
        lines = [f"Adapted({self.adapted_to})"]
        for direction, words in DIRECTIONS.items():
            before, ridge, after = (each.metrics[f"{direction}_R@5"] for each in (self.before, self.ridge, self.after))
            chance, *values = (after.show(value) for value in (after.chance, before.value, ridge.value))
            lines.append(
                f"{words}, R@5 in %: {values[0]} before, {values[1]} by a ridge map, {after} adapted, chance {chance}"
            )
        return "\n  ".join([*lines, *(f"note: {warning}" for warning in self.warnings())])

    @property
    def is_worse(self) -> bool:
        """Whether the adapted model is below the one as it was on the pairs held out: mean reciprocal rank, mean of
        both directions."""
        return mean_rank(self.after) < mean_rank(self.before)

    @property
    def stays(self) -> bool:
        """Whether the model is the one as it was."""
        return self.kept_start or self.chosen.setting is None

    def recorded_seconds(self) -> float:
        """The seconds of the record: words are made of the same number, so that both round alike."""
        return round(self.seconds, 1)

    @property
    def adapted_to(self) -> str:
        """What it was adapted to, and how long that took, in words."""
        seconds = self.recorded_seconds()
        took = f"in {seconds:,.0f} s" if seconds < 120 else f"in {seconds / 60:,.0f} minutes"
        pairs = f"{self.pairs:,} pairs of {self.data}"
        if self.stays:
            return f"nothing here: of what was tried on {pairs}, {took}, nothing was better than the model as it was"
        return f"{pairs}, {took}: {self.chosen.name}"

    def undone(self, start: DualEncoder) -> Adapted:
        """The same outcome, with the model as it was."""
        return replace(self, model=start, kept_start=True)

    def warnings(self) -> Iterator[str]:
        """What its user must know."""
        if self.kept_start:
            yield (
                "the model stays as it was: on the pairs held out the adapted one is worse (--keep-worse takes it "
                "nevertheless)"
            )
        elif self.chosen.setting is None:
            yield "nothing that was tried is better than the model as it is: it stays so"
        for direction, words in DIRECTIONS.items():
            metric = self.after.metrics[f"{direction}_MRR"]
            if metric.low is not None and metric.chance is not None and metric.low <= metric.chance:
                yield f"not shown to be above chance: {words} (MRR {metric}, chance {metric.show(metric.chance)})"
        if self.copies:
            yield (
                f"{self.copies:,} of the pictures measured on are among those adapted to as well, so that the figures "
                "are too good"
            )
        held = self.after.metrics["text_to_image_R@5"].n
        if held < 50:
            captions, are = ("caption", "is") if held == 1 else ("captions", "are")
            yield f"only {held} {captions} {are} held out: the figures are rough, as their intervals tell"

    def table(self) -> Table:
        """Before and after, for a terminal of 80 columns."""
        from rich.table import Table

        made = Table(title=f"{self.measured_on}: recall in %", title_justify="left", title_style="bold")
        for column in ("", "chance", "before", "ridge map", "after (95 % interval)"):
            made.add_column(column, justify="left" if not column else "right")
        for direction in DIRECTIONS:
            for k in KS:
                name = f"{direction}_R@{k}"
                before, ridge, after = (result.metrics[name] for result in (self.before, self.ridge, self.after))
                plain = (after.show(value) for value in (after.chance, before.value, ridge.value))
                made.add_row(label(name, after).removesuffix(", %"), *plain, f"[bold]{after}[/bold]")
        return made

    def as_dict(self) -> dict[str, Any]:
        """Everything but the model, as plain data."""
        return {
            "data": self.data,
            "measured_on": self.measured_on,
            "pairs": self.pairs,
            "chosen": trial_as_dict(self.chosen),
            "tried": [trial_as_dict(trial) for trial in self.tried],
            "kept_start": self.kept_start,
            "seconds": self.recorded_seconds(),
            "warnings": list(self.warnings()),
        }


def mean_rank(result: Result) -> float:
    """Mean reciprocal rank, mean of both directions."""
    return sum(result[f"{direction}_MRR"] for direction in DIRECTIONS) / len(DIRECTIONS)


def trial_as_dict(trial: Trial) -> dict[str, Any]:
    """A trial as plain data."""
    setting = {} if trial.setting is None else dict(vars(trial.setting))
    if setting and not isinstance(trial.setting, TrainSetting):
        setting = {"map": type(trial.setting).__name__, **setting}
    scores = {"mean_reciprocal_rank": trial.score, "on_the_first_fold": trial.first}
    return {"name": trial.name, **scores, **setting, "share_of_start": trial.start}
