"""The report of a run: one HTML file with curves, figures, a retrieval gallery and maps, which opens anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nearfar import files, templates
from nearfar.embedding.embed_source import embed
from nearfar.embedding.embeddings import Embeddings
from nearfar.evaluation.chance import warnings
from nearfar.evaluation.measures.result import Result, load_results
from nearfar.evaluation.protocols import PROTOCOLS
from nearfar.evaluation.protocols.signature import load
from nearfar.evaluation.report import figures, retrieval_gallery, space, tables
from nearfar.evaluation.report.blocks import Block, Figure, Figures, Listing, Note, Section, Verbatim
from nearfar.evaluation.report.class_map import class_map
from nearfar.evaluation.report.model_facts import model_facts
from nearfar.evaluation.report.picture_neighbours import picture_neighbours
from nearfar.evaluation.report.text_neighbours import text_neighbours
from nearfar.evaluation.run_protocols import evaluate

HISTORY, RESULTS, SKIPPED = "history.jsonl", "results.json", "skipped.txt"
RELATIONS = "class_relations.json"
CONFIGS = ("config.yaml", "recipe.yaml", "config.json")
"""What a run folder may hold, and the report shows when it is not given."""


def write_report(
    run_dir: str | Path,
    *,
    encoder: Any = None,
    source: Any = None,
    embeddings: Embeddings | None = None,
    results: Mapping[str, Result] | None = None,
    history: Sequence[Mapping[str, Any]] | None = None,
    config: Any = None,
    skipped: Iterable[Any] | None = None,
    title: str | None = None,
    about: str | None = None,
    trained_on: str | None = None,
    opened: str | None = None,
    seed: int = 0,
) -> Path:
    """Write `report.html` into a run folder; sections for which there is nothing to show are left out.

    Args:
        run_dir: the run folder, made if need be. `history.jsonl`, `results.json` (from `save_results`), `config.yaml`
            and `skipped.txt` in it are shown unless given here.
        encoder: the model; with `source`, for the gallery and the maps.
        source: held-out data; where it is not, say so in `about`.
        embeddings: those of `source`, if they are at hand; saves embedding it again.
        results: figures to show. Default: those in the folder; else retrieval, geometry and, where the data names
            classes, zero-shot, measured now.
        history: rows with `step` and figures.
        config: the resolved configuration: text, or plain dicts and lists.
        skipped: what could not be read, one entry each; what `embeddings` skipped is added.
        title: the heading. Default: the folder's name.
        about: what the data is to the model, "training data, which the model has seen", say: stands at the head of the
            report, and of every section that shows the data or what was measured on it, with the data's name and size.
        trained_on: what the model was trained on, for the table of what it is.
        opened: what `nearfar.load` opened as `encoder`, where it is not `model/` of the folder.
        seed: of what is drawn at random for galleries and maps.

    Returns:
        The path of the file. It is written in one piece, and refers to nothing outside itself.
    """
    from nearfar import __version__

    folder = Path(run_dir)
    rows = list(history) if history is not None else _read_rows(folder / HISTORY)
    data = embeddings
    if data is None and encoder is not None and source is not None:
        data = embed(encoder, source)
    if results is None and (folder / RESULTS).exists():
        results = load_results(folder / RESULTS)
    if results is None:
        results = evaluate(encoder, data, seed=seed) if data is not None else {}
    if skipped is None and (folder / SKIPPED).exists():
        skipped = (folder / SKIPPED).read_text(encoding="utf-8").splitlines()[1:]  # after the line with the count
    missing = [str(entry).strip() for entry in skipped or ()]
    if data is not None and not any(entry.startswith(f"{data.source}: ") for entry in missing):
        missing += [str(problem) for problem in data.skipped]
    sections = [
        Section("Training", _training(rows)),
        *(_of(section, data, about) for section in _measured(data, source, results, seed)),
        Section("Class relations", class_map(folder / RELATIONS)),
        Section("The model", model_facts(encoder, folder, rows, trained_on, opened)),
        Section("Configuration", _config(config, folder)),
        Section("Skipped records", _skipped(missing)),
    ]
    document = templates.render(
        __name__,
        "report.html.jinja",
        title=title or folder.resolve().name,
        lead=_lead(data, rows, about),
        warnings=list(warnings(results)),
        tiles=tables.headline(results),
        sections=[section for section in sections if section.blocks],
        footer=f"nearfar {__version__}",
    )
    return files.write(folder / "report.html", document)


def _measured(data: Embeddings | None, source: Any, results: Mapping[str, Result], seed: int) -> list[Section]:
    """The sections that show the data, or what was measured on it."""
    return [
        Section("Results", _results(results)),
        Section("By part", tables.breakdowns(results, _kinds(data))),
        Section("Neighbours" if _one_side(data) else "Retrieval gallery", _gallery(data, source, seed)),
        *_examples(results, source),
        Section("Embedding map", space.embedding_map(data, source, seed=seed) if data is not None else []),
        Section("Geometry", _geometry(data, results, seed)),
    ]


def whose(data: Embeddings, about: str | None = None) -> str:
    """What figures are of: "photos: 27 images, 27 different captions", or with `about`, what the data is to the model,
    "the validation data (photos): 27 images, 27 different captions"."""
    if not about:
        return f"{data.source}: {data.counted}"
    name = str(data.source).removesuffix(" (held out)") if "held out" in about else data.source
    return f"{about} ({name}): {data.counted}"


def _of(section: Section, data: Embeddings | None, about: str | None) -> Section:
    """A section of figures, with a word on whose they are."""
    if data is None:
        return replace(section, about=about or "")
    return replace(section, about=about or data.source, counted=data.counted)


def _lead(data: Embeddings | None, rows: Sequence[Mapping[str, Any]], about: str | None) -> str:
    parts = []
    if data is not None:
        parts.append(f"Measured on {whose(data, about)}.")
    if rows:
        parts.append(f"Trained for {max(row.get('step', 0) for row in rows):,.0f} steps.")
    return " ".join(parts)


def _training(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    drawn = figures.curves([dict(row) for row in rows])
    if not drawn:
        return []
    watched = {name.rpartition("/")[2] for row in rows for name in row}
    collapse = watched & {"spread", "image_spread", "text_spread", "image_effective_rank", "text_effective_rank"}
    note = Note(
        "Signs of collapse: a spread that falls to 0, a mean cosine that rises to 1, an effective rank near 1. "
        "A rank far below the number of dimensions is a collapse of some of them."
    )
    return [*([note] if collapse else []), Figures([Figure(svg, colours) for svg, colours in drawn])]


def _results(results: Mapping[str, Result]) -> list[Block]:
    measured = tables.metric_tables({name: result for name, result in results.items() if name != "geometry"})
    note = Note(
        "Intervals are 95 % bootstrap intervals that resample whole groups (all pictures and captions of one thing "
        "together); those of few-shot accuracies are 1.96 standard errors over episodes (below 30, by Student's t). "
        "Chance is what a random order of the candidates reaches on the same data."
    )
    return [note, *measured] if measured else []


def _kinds(data: Embeddings | None) -> dict[str, str]:
    """Where the records have a style of their own, the domains are styles."""
    return {"domain": "style"} if data is not None and "style" in data.columns else {}


def _one_side(data: Embeddings | None) -> bool:
    """Whether there are pictures without texts, or texts without pictures."""
    return data is not None and not (len(data.image) and len(data.text))


def _gallery(data: Embeddings | None, source: Any, seed: int) -> list[Block]:
    if data is None or source is None or isinstance(source, Embeddings):
        return []
    if not len(data.image):
        note = Note("Texts, and the other texts nearest to each, with their cosine.")
        listed = text_neighbours(data, seed=seed)
        return [note, *listed] if listed else []
    if not len(data.text):
        return picture_neighbours(data, source, seed=seed)
    return retrieval_gallery.both_ways(data, source, seed=seed)


def _examples(results: Mapping[str, Result], source: Any) -> list[Section]:
    """The sections with single examples, of the protocols that have them."""
    rows = [PROTOCOLS[name].examples for name in PROTOCOLS if name in results]
    return [Section(row[0], load(row[1])(results, source)) for row in rows if row is not None]


GEOMETRY = {
    "alignment": "Alignment is the mean squared distance of a caption and its image (lower is nearer; chance: random "
    "pairs).",
    "uniformity": "Uniformity is lower the more evenly the sphere is used (chance: even).",
    "effective_rank": "Effective rank counts the dimensions in use.",
    "spread": "A spread of 0 or a mean cosine of 1 is collapse.",
    "hubness": "Hubness is 0 where all images are found alike.",
}
"""What is said of a metric, by a part of its name."""


def _geometry(data: Embeddings | None, results: Mapping[str, Result], seed: int) -> list[Block]:
    drawn = space.pair_figures(data, seed=seed) if data is not None else []
    if "geometry" not in results:
        return [*drawn]
    measured = results["geometry"].metrics
    note = Note(" ".join(words for part, words in GEOMETRY.items() if any(part in name for name in measured)))
    return [note, *tables.metric_tables({"geometry": results["geometry"]}), *drawn]


def _config(config: Any, folder: Path) -> list[Verbatim]:
    if config is None:
        config_files = [folder / name for name in CONFIGS if (folder / name).exists()]
        text = config_files[0].read_text(encoding="utf-8") if config_files else ""
    elif isinstance(config, str):
        text = config
    else:
        import yaml

        text = yaml.safe_dump(json.loads(json.dumps(config, default=str)), sort_keys=False, allow_unicode=True)
    return [Verbatim(text.strip())] if text.strip() else []


def _skipped(missing: Sequence[str]) -> list[Listing]:
    return [Listing(f"{len(missing):,} could not be used", missing[:1000])] if missing else []


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file; a last line that was cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
