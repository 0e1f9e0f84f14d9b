"""CG-VLM (arXiv 2311.17945): an adapter that was aligned by captions and by contrast of picture tokens and words lets a
model learn from fewer questions than one that was aligned by captions alone.

A frozen image tower and a frozen language model, which answers about texts, are joined by a linear projector. Each arm
trains the projector in one pass over the same captions in the same order, by another loss; then projector and language
model learn to answer about pictures, on a hundredth, a tenth and all of the questions, in as many steps. What differs
between arms is the loss of the first stage and its learning rate, which is chosen for each arm by answers to validation
questions.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch

from nearfar.methods.lvlm.cg_vlm import CGVLM
from nearfar.methods.lvlm.instruction_tuning import InstructionTuning
from nearfar.models.vlm.mean_cosines import token_patch_similarity
from nearfar.models.vlm.patch_word_space import word_rows
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery
from nearfar.reproductions.vision_language_models import questioned_scenes as setup

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "model": {"image": setup.TOWER, "language": setup.LANGUAGE, "projector": "linear"},
    "words": {"steps": 120, "batch_size": 32, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.01},
    "align": {"steps": 31, "batch_size": 32, "warmup": 0.1, "weight_decay": 0.0},
    "answer": {"steps": 60, "batch_size": 32, "lr": 1e-3, "warmup": 0.1, "weight_decay": 0.01},
    "shares": {"a hundredth": 0.01, "a tenth": 0.1, "all": 1.0},
}
ALIGNED: dict[str, dict[str, Any]] = {
    "generative": {"contrast": 0.0},
    "contrastive only": {"generation": 0.0},
    "both": {},
}
"""Settings of the method `cg_vlm` in the first stage; tau is 0.07 and lambda 1."""
AREA, OF_THE_WHOLE, RETRIEVED = "answers right", "share of the whole", "captions retrieved"
PROBED, READ = "colours and shapes by a probe", "answers about texts"


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    arms: Arms = {
        "the tower, probed": {PROBED: probed("test")},
        "the language model": {READ: read(seed, "test")},
        "the commonest answer": {by_share("all"): commonest("test")},
        "chance": {PROBED: 1 / 8, READ: 1 / 8},
    }
    for arm in ("no alignment", *ALIGNED):
        model = aligned(arm, seed, **chosen.get(arm, {"lr": 0.0}))
        arms[arm] = {RETRIEVED: retrieved(model), by_share("none"): right(model, "test")}
        for name, share in CONFIG["shares"].items():
            tuned = answering(model, seed, share)
            arms[arm][by_share(name)] = right(tuned, "test")
            if (arm, name) == ("both", "all"):
                arms["both, another's picture"] = {by_share(name): right(tuned, "test", shift=1)}
        curve = [arms[arm][by_share(name)] for name in CONFIG["shares"]]
        arms[arm][AREA] = PerQuery(np.mean([each.values for each in curve], axis=0), curve[0].group)
    whole = float(arms["generative"][by_share("all")])
    for arm in ("generative", "both"):
        arms[arm][OF_THE_WHOLE] = float(arms[arm][by_share("a tenth")]) / max(whole, 1e-9)
    arms["the paper's share"] = {OF_THE_WHOLE: 0.95}
    return arms


def by_share(name: str) -> str:
    """The metric of answers after training on a share of the questions."""
    return f"{AREA}, {name}"


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """Answers to validation questions that are right after training on a tenth."""
    return float(right(answering(aligned(arm, seed, **setting), seed, CONFIG["shares"]["a tenth"]), "val"))


@cache
def words(seed: int) -> setup.ReadsCells:
    """The language model, trained on texts alone: it reads captions, and answers about them or says them in other
    words."""
    import nearfar

    own = dict(CONFIG["words"])
    size = own.pop("batch_size")
    model = setup.words_alone(100 + seed)
    model.unfreeze("lm").freeze("image", "projector")
    batches = setup.Batches("texts", list(range(setup.DATA["captions"]["train"])), own["steps"], size, seed)
    method = InstructionTuning(model, reduction="captions")
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **own)
    return model.eval()


def aligned(arm: str, seed: int, *, lr: float) -> setup.ReadsCells:
    """The model of an arm after the first stage."""
    import nearfar

    model = setup.reader(words(seed), 200 + seed)
    if arm in ALIGNED:
        own = dict(CONFIG["align"])
        rows = list(range(setup.DATA["captions"]["train"]))
        batches = setup.Batches("captions", rows, own["steps"], own.pop("batch_size"), seed)
        method = CGVLM(model, **ALIGNED[arm])
        nearfar.train(method, batches, seed=seed, lr=lr, progress=False, report=False, **own)
    return model.eval()


def answering(model: setup.ReadsCells, seed: int, share: float) -> setup.ReadsCells:
    """A copy of a model after the second stage, on a share of the questions; a larger share holds the smaller."""
    import nearfar

    own = dict(CONFIG["answer"])
    count = 2 * setup.DATA["questions"]["train"]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    batches = setup.Batches(
        "questions", order[: max(1, round(share * count))], own["steps"], own.pop("batch_size"), seed
    )
    tuned = deepcopy(model)
    tuned.unfreeze("lm", "projector").freeze("image")
    nearfar.train(InstructionTuning(tuned), batches, seed=seed, progress=False, report=False, **own)
    return tuned.eval()


@torch.no_grad()
def right(model: setup.ReadsCells, split: str, *, shift: int = 0) -> PerQuery:
    """Of each question of a split whether what the model writes after it is its answer. With `shift` the pictures are
    those of other scenes."""
    own = setup.scenes("questions", split)
    cells = setup.cells_of(own, [(row + shift) % len(own.things) for row in range(len(own.things))])
    return _written(model, own, model.picture_tokens(cells))


def read(seed: int, split: str) -> PerQuery:
    """Of each question of a split whether the language model answers it after the scene's captions."""
    own = setup.scenes("questions", split)
    texts = torch.stack([setup.words_for_cells(captions) for captions in own.captions])
    model = words(seed)  # trained here, the first time
    with torch.no_grad():
        return _written(model, own, model.picture_tokens(texts))


def _written(model: setup.ReadsCells, own: setup.Scenes, before: torch.Tensor) -> PerQuery:
    """Whether each answer is what the model writes after its scene's row of `before` `[N, P, W]` and the question."""
    hits, of = list[float](), [number // 2 for number in range(len(own.questions))]
    for start in range(0, len(of), 100):
        part = own.questions[start : start + 100]
        written = model.caption(before[of[start : start + 100]], [question for question, _ in part], max_tokens=3)
        hits += [float(text == answer) for text, (_, answer) in zip(written, part, strict=True)]
    return PerQuery(hits, of)


def commonest(split: str) -> float:
    """The share of the questions of a split whose answer is the commonest of its kind of question in training."""
    train, own = setup.scenes("questions", "train").questions, setup.scenes("questions", split).questions
    best = [Counter(answer for _, answer in train[kind::2]).most_common(1)[0][0] for kind in (0, 1)]
    return sum(answer == best[place % 2] for place, (_, answer) in enumerate(own)) / len(own)


@cache
def probed(split: str) -> PerQuery:
    """Of the colour and the name of each thing of question scenes whether a linear map of the cell at the thing's
    middle, fitted by least squares on captioned scenes, says it."""
    from nearfar.data.scenes import COLOURS, SHAPES

    def of(own: setup.Scenes) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        cells, places, labels, scene = setup.cells_of(own, list(range(len(own.things)))), [], [], []
        for row, things in enumerate(own.things):
            for thing in things:
                places.append(cells[row, setup.cell_at(thing, cells.shape[1])])
                labels.append([list(COLOURS).index(thing["colour"]), SHAPES.index(thing["name"])])
                scene.append(row)
        inputs = torch.nn.functional.pad(torch.stack(places), (0, 1), value=1.0).double()
        return inputs, torch.tensor(labels), scene

    inputs, labels, _ = of(setup.scenes("captions", "train"))
    tested, truth, scene = of(setup.scenes("questions", split))
    square = inputs.T @ inputs + torch.eye(inputs.shape[1], dtype=inputs.dtype)
    hits = []
    for kind in (0, 1):
        fitted = torch.linalg.solve(square, inputs.T @ torch.nn.functional.one_hot(labels[:, kind], 8).double())
        hits.append((tested @ fitted).argmax(1) == truth[:, kind])
    return PerQuery(torch.cat(hits).double().numpy(), scene * 2)


@torch.no_grad()
def retrieved(model: setup.ReadsCells) -> PerQuery:
    """Of each test scene whether the caption that scores highest names its colour and its shape."""
    own = setup.scenes("captions", "test")
    rows, texts = list(range(len(own.things))), [captions[0] for captions in own.captions]
    table, mask = word_rows(model, setup.tokens(texts))
    patches = model.picture_tokens(setup.cells_of(own, rows))
    best = token_patch_similarity(patches, table, token_mask=mask).argmax(1).tolist()
    kinds = [(things[0]["colour"], things[0]["name"]) for things in own.things]
    return PerQuery([float(kinds[place] == kinds[row]) for row, place in zip(rows, best, strict=True)], rows)


reproduction = Reproduction(
    slug="cg-vlm",
    run=run,
    claims=[
        Claim(
            "the tower knows colours and shapes",
            "the tower, probed",
            "chance",
            PROBED,
            margin=0.3,
            premise=True,
            constant=True,
        ),
        Claim(
            "the language model answers about texts",
            "the language model",
            "chance",
            READ,
            margin=0.5,
            premise=True,
            constant=True,
        ),
        Claim(
            "by captions alone, and all questions, it learns to answer",
            "generative",
            "the commonest answer",
            by_share("all"),
            margin=0.2,
            premise=True,
            constant=True,
        ),
        Claim(
            "with the contrast, and all questions, it learns to answer",
            "both",
            "the commonest answer",
            by_share("all"),
            margin=0.2,
            premise=True,
            constant=True,
        ),
        Claim(
            "answers are of the picture",
            "both",
            "both, another's picture",
            by_share("all"),
            margin=0.2,
            premise=True,
        ),
        Claim(
            "captions in the first stage help to answer",
            "generative",
            "no alignment",
            AREA,
            premise=True,
        ),
        Claim("with the contrast more answers are right, over all shares of the questions", "both", "generative", AREA),
        Claim("it is so with a hundredth of the questions", "both", "generative", by_share("a hundredth")),
        Claim(
            "with all questions it does at most three points worse",
            "both",
            "generative",
            by_share("all"),
            margin=-0.03,
        ),
        Claim(
            "a tenth of the questions gives 95 % of what all give to captions alone",
            "both",
            "the paper's share",
            OF_THE_WHOLE,
            constant=True,
        ),
        Claim("captions are needed beside the contrast", "both", "contrastive only", AREA),
        Claim("pictures are nearer to their captions", "both", "generative", RETRIEVED, floor="no alignment"),
    ],
    seeds=range(40, 46),
    pilot=0,
    grid=Grid(tuple(ALIGNED), {"lr": [4e-3, 1.2e-2]}, validated, by_share("a tenth"), seeds=(2000,)),
    config=CONFIG,
    note=(
        "EfficientNet-Lite0 with ImageNet's weights, frozen, 9 cells of a picture of 96 pixels, in 256 principal "
        "directions; a language model of 2 layers of 64 numbers, trained to answer about captions that stand where a "
        "picture's tokens will, and frozen in the first stage; a linear projector; 31 steps of 32 captions, 60 of 32 "
        "questions. One coloured shape a scene; what colour is it, and what is it: chance 1/8. Answers are written, "
        "and count where they are exact."
    ),
)
