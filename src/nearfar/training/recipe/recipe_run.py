"""A recipe that is ready to run: train, then evaluate and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar import distributed as processes
from nearfar import files
from nearfar.data.sources.skipped import Skipped
from nearfar.evaluation.chance import warnings
from nearfar.evaluation.needs import missing_in_model
from nearfar.methods.base import Method
from nearfar.models import load
from nearfar.training.loop import finish
from nearfar.training.loop.run import Run
from nearfar.training.loop.run_folder import alone
from nearfar.training.loop.training_loop import TrainingLoop
from nearfar.training.recipe.forewarnings import from_nothing, is_from_scratch, tower_cost
from nearfar.training.recipe.recipe_data import protocols_on
from nearfar.training.stages.task_data import keep_memory
from nearfar.training.state import sharding

if TYPE_CHECKING:
    from nearfar.training.recipe.recipe_file import Recipe


@dataclass
class AssembledRun:
    """A recipe's parts, ready to train."""

    recipe: Recipe
    method: Method
    loader: Any
    validation: Callable[[Method], dict[str, float]] | None
    held_out: Any
    """The source of the evaluation, or None."""
    source: Any
    """The source that is trained on."""
    validated_on: Any
    """The source of the validation, or None."""
    say_first: Callable[[], None] | None = None
    """Is called before the first step, when all is checked."""

    def run(self, out: Path, *, resume: bool = False) -> Run:
        """Train, then evaluate and report. The recipe is kept as `config.yaml`."""
        # The report is written once, at the end, when there is something to show.
        config = replace(self.recipe.training, report=False)
        with alone(out, config.device):
            if processes.is_main() and not list(out.glob("checkpoints/step-*")):
                files.write(out / "config.yaml", self.recipe.as_yaml())
            loop = TrainingLoop(self.method, self.loader, out, self.validation, resume, config)
            if self.say_first:
                self.say_first()
            records = len(self.source) if hasattr(self.source, "__len__") else None
            warning = from_nothing(self.recipe, records, loop.steps)
            pretrained = not is_from_scratch(self.recipe.model) and not sharding.enabled()
            cost = tower_cost(self.method, config.batch_size, config.chunk, loop.steps) if pretrained else None
            for note in filter(None, (warning, cost) if processes.is_main() else ()):
                print(f"note: {note}", flush=True)
            run = loop.run()
            if processes.is_main():
                # A split model needs every process to embed: this one takes the whole model that was saved.
                model = load(out / "model") if sharding.enabled() else run.model
                keep_memory(self.source, model, out)
                self._evaluate(run, model, out)
                run.remarks += [warning] if warning else []
            processes.barrier()
        return run

    def as_it_is(self, out: Path) -> Run:
        """Save, evaluate and report the model without training: a stage that others go on from."""
        with alone(out, self.recipe.training.device):
            if processes.is_main():
                files.write(out / "config.yaml", self.recipe.as_yaml())
            if self.say_first:
                self.say_first()
            run = Run(self.method.eval(), out, 0, [], 0.0)
            finish.save_model(run)
            if processes.is_main():
                keep_memory(self.source, run.model, out)
                self._evaluate(run, run.model, out)
            processes.barrier()
        return run

    def _evaluate(self, run: Run, model: Any, out: Path) -> None:
        """Measure and report, on the evaluation's data or the share held out; else report on what there is."""
        from nearfar.evaluation import embed, evaluate, left_out, save_results
        from nearfar.evaluation.report import whose, write_report

        settings, config = self.recipe.evaluation, self.recipe.training
        if self.held_out is None:
            if config.report:
                title = self.recipe.name
                if problem := finish.save_report(
                    run,
                    model,
                    self.validated_on,
                    self.source,
                    seed=config.seed,
                    captions=settings.captions,
                    title=title,
                ):
                    print(problem)
            return
        most = self.recipe.data.max_skipped
        protocols, embeddings = protocols_on(self.recipe, model, self.held_out), None
        if protocols is None or not missing_in_model("geometry", model, self.held_out):
            embeddings = embed(
                model, self.held_out, captions=settings.captions, max_skipped=most, progress=config.progress
            )
            finish.note_skipped(run, self.held_out.name, embeddings.skipped)
        if embeddings is not None and settings.protocols is None and config.progress:
            for name, reason in left_out(model, embeddings).items():
                print(f"evaluation: {name} is left out, as {reason}")
        run.results = evaluate(
            model,
            self.held_out,
            protocols,
            seed=config.seed,
            embeddings=embeddings,
            options=settings.options,
        )
        share = None if settings.data or self.recipe.data.leave_out else self.recipe.data.share
        about = None if share is None else f"the {100 * share:g} % of the data held out of training"
        run.measured_on = (about or self.held_out.name) if embeddings is None else whose(embeddings, about)
        run.remarks = list(warnings(run.results))
        data = settings.data or self.held_out.name
        save_results(run.results, out / "results.json", model=str(out / "model"), data=data, about=run.measured_on)
        finish.save_card(run, model, run.results, trained_on=self.source, measured_on=run.measured_on)
        if config.report:
            write_report(
                out,
                title=self.recipe.name,
                about=about,
                skipped=Skipped.by_source(run.left_out) or None,
                results=run.results,
                embeddings=embeddings,
                source=self.held_out if embeddings is not None else None,
                encoder=model,
                trained_on=finish.named(self.source),
            )
