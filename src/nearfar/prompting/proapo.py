"""ProAPO (arXiv 2502.19844): class texts by evolution, on as little as one labelled image a class. First templates for
all classes (alone: ATO), then names and descriptions of each. No gradient, and no language model in the loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from nearfar import files, lookup
from nearfar.embedding.embed_source import embed_texts
from nearfar.embedding.text_bank import PROBE, TextBank
from nearfar.errors import UserError
from nearfar.locks import Lock
from nearfar.prompting.class_texts import ClassTexts
from nearfar.prompting.description_search import ClassItems, GroupSearch, GroupStanding, State, search_descriptions
from nearfar.prompting.prompt_fitness import FITNESS, Fitness, Measured, ShotScorer
from nearfar.prompting.prompt_library import PromptLibrary
from nearfar.prompting.score_log import ScoreLog
from nearfar.prompting.set_search import Generation, SearchSize
from nearfar.prompting.template_search import Draws, search_templates

PLAIN, ENSEMBLE, DESCRIBED, TEMPLATES, CHOSEN = (
    *("plain template", "all templates", "all descriptions"),
    *("searched templates", "searched texts"),
)
"""Class texts that a search is compared with, and its own."""
PAPER_GROUPS = GroupSearch()
"""The second stage as in the paper."""


@dataclass(frozen=True)
class HistoryRow:
    """The best fitness after a generation of a search: that of `templates` (round and group 0), or of a group of
    classes. `scored` counts the candidates of this search so far."""

    stage: str
    round: int
    group: int
    generation: int
    fitness: float
    scored: int


class ProAPO:
    """A search of class texts for a frozen model.

    Args:
        encoder: anything with `encode_text` and `tokenize`.
        fitness: what is maximised on the labelled images: "paper" (accuracy + likelihood), "released", "accuracy", or a
            `Fitness`.
        templates: how much the first stage searches; the paper's where none is named.
        descriptions: how much the second stage searches; None leaves it out, which is the paper's ATO.
        draws: "uniform"; or "linear" or "exp" for draws by how good an item is alone.
        temperature: what cosines are divided by; None: the model's own, or 0.01.
        seed: of all draws. The same seed gives the same texts.
        batch_size: texts at a time.

    Attributes:
        texts_: the best `ClassTexts`; templates_: the best templates.
        compared_: by name, the class texts that a user would write without a search, and those of both stages.
        measured_: by the same names, what they do on the labelled images.
        history_: a `HistoryRow` for each generation.
        scored_: how many candidates were scored; encoded_: how many different texts were encoded.

    Raises:
        UserError: a setting out of its range, or a model without a text tower.

    >>> from nearfar.prompting import ProAPO, PromptLibrary
    >>> class Letters:
    ...     temperature = 0.1
    ...     def tokenize(self, texts): return torch.tensor([[text.count(c) + 0.1 for c in "xyz"] for text in texts])
    ...     def encode_text(self, tokens): return tokens
    >>> library = PromptLibrary(("a", "b"), ("it is {}",), descriptions={"a": ("xx", "zz"), "b": ("yy", "zz")})
    >>> search = ProAPO(Letters()).fit(torch.eye(3)[:2], ["a", "b"], library)
    >>> search.texts_.sentences
    (('it is a xx',), ('it is b yy',))
    """

    def __init__(
        self,
        encoder: Any,
        *,
        fitness: str | Fitness = "paper",
        templates: SearchSize | None = None,
        descriptions: GroupSearch | None = PAPER_GROUPS,
        draws: Draws = "uniform",
        temperature: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        if not (hasattr(encoder, "encode_text") and hasattr(encoder, "tokenize")):
            raise UserError(f"a {type(encoder).__name__} does not embed texts: take a model with a text tower")
        lookup.check("way to draw", [draws], ("uniform", "linear", "exp"))
        self.encoder, self.draws, self.seed, self.batch_size = encoder, draws, seed, batch_size
        self.fitness = lookup.find("fitness", fitness, FITNESS) if isinstance(fitness, str) else fitness
        self.templates, self.descriptions = templates or SearchSize(), descriptions
        own = getattr(encoder, "temperature", None) or 0.01
        self.temperature = float(own if temperature is None else temperature)

    def fit(
        self,
        features: Tensor,
        labels: Tensor | Sequence[int] | Sequence[str],
        library: PromptLibrary,
        *,
        folder: str | Path | None = None,
        bank: TextBank | None = None,
        after: Callable[[HistoryRow], None] = lambda row: None,
    ) -> Self:
        """Search. Only these images are looked at: keep those that you measure on out of them.

        Args:
            features: embeddings of the labelled images by the same model, `[N, D]`, floating point.
            labels: of each its class, by name or by its place in `library.names`.
            library: what texts are made of.
            folder: keeps scores and embeddings of texts, so that a search that was killed goes on there.
            bank: embeddings of texts that several searches share; a new one where none is named.
            after: is called after each generation.

        Raises:
            UserError: images and labels that do not fit, or a folder of another search.
        """
        numbers = _numbers(labels, library.names)
        scorer = ShotScorer(
            features,
            numbers,
            classes=len(library.names),
            temperature=self.temperature,
            fitness=self.fitness,
        )
        lock = None
        if folder is not None:
            lock = Lock(Path(folder), "searching prompts in", ", or name another folder", name="search.lock")
        try:
            if folder is not None:
                _check_plan(Path(folder), self._plan(scorer, library))
            kept = None if folder is None else Path(folder)
            if bank is None:
                bank = TextBank(self.encoder, folder=kept and kept / "texts", batch_size=self.batch_size)
            self._search(scorer, library, bank, ScoreLog(kept and kept / "scores.jsonl"), after)
        finally:
            if lock is not None:
                lock.release()
        return self

    def _search(
        self,
        scorer: ShotScorer,
        library: PromptLibrary,
        bank: TextBank,
        log: ScoreLog,
        after: Callable[[HistoryRow], None],
    ) -> None:
        self.history_: list[HistoryRow] = []
        before = bank.encoded

        def note(row: HistoryRow) -> None:
            self.history_.append(row)
            after(row)

        def note_templates(at: Generation) -> None:
            note(HistoryRow("templates", 0, 0, at.number, at.score, at.scored))

        def note_group(at: GroupStanding) -> None:
            one = at.generation
            note(HistoryRow("descriptions", at.round, at.group, one.number, one.score, one.scored))

        searching: dict[str, Any] = {"draws": self.draws, "seed": self.seed, "log": log}
        stage = search_templates(
            bank,
            scorer,
            library.names,
            library.all_templates,
            size=self.templates,
            after=note_templates,
            **searching,
        )
        self.templates_ = stage.templates
        named = ClassTexts.of(library.names, stage.templates)
        plain = library.all_templates[0]
        self.compared_ = {
            PLAIN: ClassTexts.of(library.names, plain),
            ENSEMBLE: ClassTexts.of(library.names, library.all_templates),
            TEMPLATES: named,
        }
        self.measured_: dict[str, Measured] = {
            PLAIN: stage.plain,
            ENSEMBLE: stage.all_templates,
            TEMPLATES: stage.best,
        }
        self.texts_ = named
        if library.described:
            by_plain = ClassItems(library, [plain], bank)
            self._compare(DESCRIBED, by_plain, by_plain.all_described(), scorer)
        if self.descriptions is not None and (library.described or library.labels):
            items = ClassItems(library, stage.templates, bank)
            state = search_descriptions(items, scorer, search=self.descriptions, after=note_group, **searching)
            self._compare(CHOSEN, items, state, scorer)
            self.texts_ = self.compared_[CHOSEN]
        self.scored_, self.encoded_ = log.computed, bank.encoded - before

    def _compare(self, name: str, items: ClassItems, state: State, scorer: ShotScorer) -> None:
        self.compared_[name] = items.texts(state)
        self.measured_[name] = scorer.measure(items.class_vectors(state))

    def _plan(self, scorer: ShotScorer, library: PromptLibrary) -> dict[str, Any]:
        """What a search hangs on: exact, but for the features, which other kernels give with other last digits."""
        settings = {
            "fitness": asdict(self.fitness),
            "templates": asdict(self.templates),
            "descriptions": None if self.descriptions is None else asdict(self.descriptions),
            "draws": self.draws,
            "temperature": self.temperature,
            "seed": self.seed,
            "labels": scorer.labels.tolist(),
            "library": [list(library.names), library.all_templates, [library.items(name) for name in library.names]],
            "join": library.join,
        }
        probe = scorer.features[[0, -1]]
        probe = torch.cat([probe, embed_texts(self.encoder, [PROBE], progress=False).to(probe)])[:, :8]
        digest = blake2b(json.dumps(settings).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()
        return {"digest": digest, "features": [[round(x, 4) for x in row] for row in probe.tolist()]}


def _numbers(labels: Tensor | Sequence[int] | Sequence[str], names: Sequence[str]) -> Tensor:
    """Labels `[N]` int64 by name or number."""
    if isinstance(labels, Tensor):
        return labels
    listed: list[Any] = list(labels)
    if any(isinstance(label, str) for label in listed):
        lookup.check("class", [str(label) for label in listed], names, where="labels: ")
        place = {name: i for i, name in enumerate(names)}
        listed = [place[str(label)] for label in listed]
    return torch.tensor([int(label) for label in listed], dtype=torch.long)


def _check_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Keep the plan in the folder, or hold it against the one that is there."""
    path = folder / "search.json"
    if not path.is_file():
        files.write(path, json.dumps(plan))
        return
    try:
        kept = json.loads(path.read_text("utf-8"))
    except ValueError:
        kept = None
    features = torch.tensor(plan["features"])
    same = isinstance(kept, dict) and kept.get("digest") == plan["digest"]
    if same:
        before = torch.tensor(kept["features"])
        same = before.shape == features.shape and bool((before - features).abs().max() < 1e-3)
    if not same:
        raise UserError(
            f"{folder} holds a search of other images, texts or settings: name another folder, or remove this one"
        )
