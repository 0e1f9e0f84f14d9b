"""`nearfar prompts`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from shlex import join
from typing import TYPE_CHECKING, Any, Literal, Unpack

from nearfar.signatures.data_columns import Columns, of

if TYPE_CHECKING:
    from nearfar.data.sources.source import Source
    from nearfar.embedding.embeddings import Embeddings
    from nearfar.prompting import ClassTexts, ProAPO, PromptLibrary


def prompts(
    data: str,
    *,
    model: str = "starter",
    library: Path | None = None,
    out: Path = Path("prompts"),
    shots: int = 1,
    test: str | None = None,
    fitness: Literal["paper", "released", "accuracy"] = "paper",
    stages: Literal["both", "templates"] = "both",
    draws: Literal["uniform", "linear", "exp"] = "uniform",
    rounds: int = 3,
    groups: int = 4,
    split: str | None = None,
    test_split: str | None = None,
    batch_size: int = 64,
    max_skipped: float = 0.1,
    seed: int = 0,
    **columns: Unpack[Columns],
) -> None:
    """Search texts of classes for a frozen model, by evolution on a few labelled pictures (ProAPO).

    First templates for all classes, then names and descriptions of each, from a library that was written once. Writes
    prompts.json, class by class, for nearfar evaluate --class-texts; report.html, and results.json with the accuracy of
    these texts and of plain ones on pictures that took no part. A search that was killed goes on when it is run again.

    Args:
        data: labelled pictures: a folder of class folders, a table, .tar shards, hub:NAME or world/emoji.
        model: a folder that nearfar or transformers saved, or a model's name.
        library: a JSON or YAML file of descriptions by class, or of templates, types, labels, descriptions and join; by
            default the captions of the pictures that are drawn, and the house's 80 templates.
        out: the folder for all of it.
        shots: labelled pictures of each class that texts are scored on.
        test: other data to measure on; by default the pictures that were not drawn.
        fitness: accuracy and likelihood as in the paper; the weights of the released code; or accuracy alone.
        stages: templates alone (ATO) or both.
        draws: all items alike, or the more often the better they are alone.
        rounds: how often groups of classes are made.
        groups: of a round, how many are searched.
        split: which split of the data.
        test_split: which split of --test.
        batch_size: pictures, and texts, at a time.
        max_skipped: share of unusable pictures above which this stops.
        seed: of the shots and of all draws.
    """
    from rich.console import Console

    from nearfar import files
    from nearfar.errors import UserError, at_least
    from nearfar.evaluation.report.prompts_report import accuracy_table, write_prompts_report
    from nearfar.models import load
    from nearfar.prompting import GroupSearch, ProAPO
    from nearfar.prompting.cut_texts import cut_texts

    at_least(1, shots=shots, batch_size=batch_size)
    if (out / "prompts.json").exists():
        raise UserError(f"{out / 'prompts.json'} is there already: name another folder, --out, or move it away")
    files.folder(out)
    console = Console(soft_wrap=True, highlight=False)
    reading: dict[str, Any] = {"batch_size": batch_size, "max_skipped": max_skipped}
    source = labelled_pictures(data, split, max_skipped, of(dict(columns)))
    drawn, rest = divided(source, shots, seed)
    chosen = texts_of(drawn, library)
    held = f"{len(chosen.all_templates):,} templates, descriptions of {chosen.described:,} classes"
    console.print(f"{len(drawn):,} pictures of {len(chosen.names):,} classes; {held}", markup=False)
    encoder = load(model)
    search = ProAPO(
        encoder,
        fitness=fitness,
        descriptions=None if stages == "templates" else GroupSearch(rounds=rounds, groups=groups),
        draws=draws,
        seed=seed,
        batch_size=batch_size,
    )
    work = files.folder(out / "search")
    plan = {"data": data, "split": split, "model": model, "shots": shots, "seed": seed, **of(dict(columns))}
    shown = kept_embeddings(work / "pictures.safetensors", plan, encoder, drawn, reading)
    place = {name: i for i, name in enumerate(chosen.names)}
    numbers = [place[source.classes[label]] for label in shown.label.tolist()]  # type: ignore[union-attr, index]
    search.fit(shown.image, numbers, chosen, folder=work)
    if cut := cut_texts(encoder, search.texts_.texts):
        console.print(f"{len(cut):,} of the texts are longer than the model reads, such as {cut[0]!r}", markup=False)
    held_out = labelled_pictures(test, test_split, max_skipped, of(dict(columns))) if test else rest
    results = measured(encoder, held_out, shown, search.compared_, seed=seed, **reading)
    about = {"data": data, "model": model, "shots": shots, "seed": seed, "fitness": fitness, "draws": draws}
    write_results(out, search, results, about)
    title = f"Class texts for {model} on {data}"
    report = write_prompts_report(out, search, results, title=title)
    search.texts_.save(out / "prompts.json")
    shutil.rmtree(work, ignore_errors=True)
    console.print(accuracy_table(search, results))
    console.print(f"{search.scored_:,} candidates scored; the report: {report}", markup=False)
    part = test_split if test else split
    where = [model, "--on", test or data, *(["--split", part] if part else [])]
    words = ["nearfar", "evaluate", *where, "--protocols", "zero_shot", "--class-texts", str(out / "prompts.json")]
    console.print(f"written to {out / 'prompts.json'}; to take it: {join(words)}", markup=False)


def labelled_pictures(data: str, split: str | None, max_skipped: float, columns: Mapping[str, Any]) -> Source:
    """The data, with labels that have names."""
    from nearfar.console import with_remark
    from nearfar.data import open_source
    from nearfar.data.sources.source import Source
    from nearfar.errors import UserError
    from nearfar.evaluation.needs import missing_in_source

    source = open_source(data, split=split, world_split="test", max_skipped=max_skipped, **columns)
    if not isinstance(source, Source):
        raise UserError(
            f"{source.name} is a stream, and few pictures of each class are drawn from data that is counted"
        )
    if missing := missing_in_source("zero_shot", source):
        raise UserError(missing)
    return with_remark(source)


def divided(source: Source, shots: int, seed: int) -> tuple[Source, Source]:
    """A few pictures of each class, and all others that have a label."""
    import torch

    from nearfar.errors import UserError
    from nearfar.prompting import draw_shots

    label = torch.tensor([-1 if value is None else int(value) for value in source.column("label")])
    rows = draw_shots(label, shots, seed=seed)
    if not len(rows):
        raise UserError(f"{source.name} has no labels: name the column with label=NAME, or use class folders")
    others = label >= 0
    others[rows] = False
    return source.select(rows.tolist()), source.select(others.nonzero().flatten().tolist())


def texts_of(drawn: Source, path: Path | None) -> PromptLibrary:
    """The library of a file, or of the captions of the pictures that were drawn; for the classes that these show."""
    from nearfar.data.sources.record_text import captions
    from nearfar.errors import UserError
    from nearfar.prompting import PromptLibrary

    called = list(drawn.classes or [])
    labels = [int(label) for label in drawn.column("label")]
    if max(labels) >= len(called):
        raise UserError(f"{drawn.name} has label {max(labels)}, but only {len(called)} classes are named")
    names = [called[label] for label in sorted(set(labels))]
    if path is not None:
        return PromptLibrary.load(path, names)
    texts = drawn.column("text") if "text" in drawn.columns else []
    pairs = [(called[label], text) for label, own in zip(labels, texts, strict=False) for text in captions(own)]
    return PromptLibrary.from_captions(names, pairs)


def kept_embeddings(
    path: Path, plan: Mapping[str, Any], encoder: Any, source: Source, reading: Mapping[str, Any]
) -> Embeddings:
    """The embedded pictures, or those that a run of the same plan left."""
    from nearfar import files
    from nearfar.embedding import Embeddings, embed
    from nearfar.errors import UserError

    written, note = json.dumps(dict(plan), sort_keys=True, default=str), path.with_suffix(".json")
    if path.is_file() and note.is_file():
        if note.read_text("utf-8") != written:
            raise UserError(f"{path.parent} holds another search: name another folder, --out, or remove it")
        return Embeddings.load(path)
    embedded = embed(encoder, source, captions=0, progress=True, **reading)
    embedded.save(path)
    files.write(note, written)
    return embedded


def measured(
    encoder: Any,
    source: Source,
    shown: Embeddings,
    texts: Mapping[str, ClassTexts],
    *,
    seed: int,
    batch_size: int,
    max_skipped: float,
) -> dict[str, Any]:
    """The accuracy of class texts on pictures that took no part; nothing where there are none."""
    from nearfar import console
    from nearfar.embedding import embed
    from nearfar.evaluation import zero_shot

    if not len(source):
        return {}
    held_out = embed(encoder, source, captions=0, progress=True, batch_size=batch_size, max_skipped=max_skipped)
    # Copies of what texts were scored on, under other names, are no test.
    nearest = (held_out.image @ shown.image.T).amax(1)
    held_out = held_out.select((nearest < 1 - 1e-5).nonzero().flatten())
    if not len(held_out):
        return {}
    each = console.track(texts.items(), "measuring", True)
    return {name: zero_shot(encoder, held_out, texts=own, seed=seed, batch_size=batch_size) for name, own in each}


def write_results(out: Path, search: ProAPO, results: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write results.json: the measured accuracies, and how the search went."""
    from dataclasses import asdict

    from nearfar.evaluation import save_results

    details = {
        "templates": list(search.templates_),
        "on_the_drawn_pictures": {name: asdict(one) for name, one in search.measured_.items()},
        "candidates": search.scored_,
        "history": [asdict(row) for row in search.history_],
    }
    save_results(results, out / "results.json", **about, **details)
