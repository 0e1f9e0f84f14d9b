"""CG-VLM (arXiv 2311.17945): an adapter that was aligned by captions and by contrast of picture tokens and words lets a
model learn from fewer questions than one that was aligned by captions alone.

A frozen image tower and a frozen language model, which knows the captions' and the questions' words, are joined by a
linear projector. Each arm trains the projector for as many steps on the same captions in the same order, by another
loss; then projector and language model learn to answer, on a twentieth, a tenth and all of the questions, for the same
number of steps. What differs between arms is the loss of the first stage and its learning rate, which is chosen for
each arm by answers to validation questions.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import torch

from nearfar.methods.lvlm.cg_vlm import CGVLM
from nearfar.methods.lvlm.instruction_tuning import InstructionTuning
from nearfar.models.vlm.mean_cosines import token_patch_similarity
from nearfar.models.vlm.patch_word_heatmap import patch_word_heatmap
from nearfar.models.vlm.patch_word_space import word_rows
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery
from nearfar.reproductions.vision_language_models import questioned_scenes as setup

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "model": {"image": setup.TOWER, "language": setup.LANGUAGE, "projector": "linear"},
    "words": {"steps": 300, "batch_size": 64, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.01},
    "align": {"steps": 200, "batch_size": 64, "warmup": 0.1, "weight_decay": 0.0},
    "answer": {"steps": 150, "batch_size": 32, "lr": 1e-3, "warmup": 0.1, "weight_decay": 0.01},
    "shares": {"a twentieth": 0.05, "a tenth": 0.1, "all": 1.0},
}
ALIGNED: dict[str, dict[str, Any]] = {
    "generative": {"contrast": 0.0},
    "contrastive only": {"generation": 0.0},
    "both": {},
}
"""Settings of the method `cg_vlm` in the first stage; tau is 0.07 and lambda 1."""
AREA, OF_THE_WHOLE, LOCATED, RETRIEVED = "answers right", "share of the whole", "words located", "captions retrieved"


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    arms: Arms = {}
    for arm in ("no alignment", *ALIGNED):
        model = aligned(arm, seed, **chosen.get(arm, {"lr": 0.0}))
        arms[arm] = {LOCATED: located(model), RETRIEVED: retrieved(model)}
        for name, share in CONFIG["shares"].items():
            tuned = answering(model, seed, share)
            arms[arm][by_share(name)] = right(tuned, "test")
            if (arm, name) == ("both", "all"):
                arms["both, another's picture"] = {by_share(name): right(tuned, "test", shift=1)}
        curve = [arms[arm][by_share(name)] for name in CONFIG["shares"]]
        arms[arm][AREA] = PerQuery(np.mean([each.values for each in curve], axis=0), curve[0].group)
    whole = float(arms["generative"][by_share("all")])
    arms["both"][OF_THE_WHOLE] = float(arms["both"][by_share("a tenth")]) / max(whole, 1e-9)
    arms["generative"][OF_THE_WHOLE] = float(arms["generative"][by_share("a tenth")]) / max(whole, 1e-9)
    arms["the paper's share"] = {OF_THE_WHOLE: 0.95}
    return arms


def by_share(name: str) -> str:
    """The metric of answers after training on a share of the questions."""
    return f"{AREA}, {name}"


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """Answers to validation questions that are right after training on a tenth."""
    return float(right(answering(aligned(arm, seed, **setting), seed, CONFIG["shares"]["a tenth"]), "val"))


@cache
def words(seed: int) -> Any:
    """The language model, trained on all that is said, without pictures."""
    import nearfar
    from nearfar.methods import SimCTG

    own = dict(CONFIG["words"])
    method = SimCTG(setup.words_alone(100 + seed), weight=0.0)
    count = setup.DATA["captions"]["train"] + setup.DATA["questions"]["train"]
    batches = setup.Batches("texts", list(range(count)), own["steps"], own.pop("batch_size"), seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **own)
    return method.model.eval()


def aligned(arm: str, seed: int, *, lr: float) -> Any:
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


def answering(model: Any, seed: int, share: float) -> Any:
    """A copy of a model after the second stage, on a share of the questions; a larger share holds the smaller."""
    import nearfar

    own = dict(CONFIG["answer"])
    count = setup.DATA["questions"]["train"]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    batches = setup.Batches(
        "questions", order[: max(1, round(share * count))], own["steps"], own.pop("batch_size"), seed
    )
    tuned = deepcopy(model)
    tuned.unfreeze("lm", "projector").freeze("image")
    nearfar.train(InstructionTuning(tuned), batches, seed=seed, progress=False, report=False, **own)
    return tuned.eval()


@torch.no_grad()
def right(model: Any, split: str, *, shift: int = 0) -> PerQuery:
    """Of each question of a split whether what the model writes after it is its answer. With `shift` the pictures are
    those of other questions."""
    own = setup.scenes("questions", split)
    rows, hits = list(range(len(own.texts))), list[float]()
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        cells = setup.cells_of(own, [(row + shift) % len(rows) for row in part])
        written = model.caption(model.picture_tokens(cells), [own.texts[row] for row in part], max_tokens=3)
        hits += [float(text == own.answers[row]) for row, text in zip(part, written, strict=True)]
    return PerQuery(hits, rows)


@torch.no_grad()
def located(model: Any) -> PerQuery:
    """Of each thing of test scenes whether the map of its colour and name peaks within its box."""
    own = setup.scenes("captions", "test")
    hits, group = list[float](), list[int]()
    for row, things in enumerate(own.things):
        tokens = model.picture_tokens(setup.cells_of(own, [row])).expand(len(things), -1, -1)
        maps = patch_word_heatmap(model, tokens, [phrase for phrase, _ in things])
        for heat, (_, (left, top, over, below)) in zip(maps, things, strict=True):
            place = int(heat.argmax())
            y, x = (place // heat.shape[1] + 0.5) / heat.shape[0], (place % heat.shape[1] + 0.5) / heat.shape[1]
            hits.append(float(left <= x <= over and top <= y <= below))
            group.append(row)
    return PerQuery(hits, group)


@torch.no_grad()
def retrieved(model: Any) -> PerQuery:
    """Of each test scene whether the caption that scores highest has the words of its own."""
    own = setup.scenes("captions", "test")
    rows = list(range(len(own.texts)))
    table, mask = word_rows(model, setup.tokens(own.texts))
    patches = model.picture_tokens(setup.cells_of(own, rows))
    best = token_patch_similarity(patches, table, token_mask=mask).argmax(1).tolist()
    bags = [sorted(text.split()) for text in own.texts]
    return PerQuery([float(bags[place] == bags[row]) for row, place in zip(rows, best, strict=True)], rows)


reproduction = Reproduction(
    slug="cg-vlm",
    run=run,
    claims=[
        Claim(
            "captions in the first stage help to answer",
            "generative",
            "no alignment",
            AREA,
            premise=True,
        ),
        Claim(
            "answers are of the picture",
            "both",
            "both, another's picture",
            by_share("all"),
            margin=0.1,
            premise=True,
        ),
        Claim("with the contrast more answers are right, over all shares of the questions", "both", "generative", AREA),
        Claim(
            "it is so with a twentieth of the questions",
            "both",
            "generative",
            by_share("a twentieth"),
        ),
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
        Claim("places are nearer to their words", "both", "generative", LOCATED, floor="no alignment"),
        Claim("pictures are nearer to their captions", "both", "generative", RETRIEVED, floor="no alignment"),
    ],
    seeds=range(10, 15),
    pilot=0,
    grid=Grid(tuple(ALIGNED), {"lr": [2e-3, 6e-3]}, validated, by_share("a tenth")),
    config=CONFIG,
    note=(
        "EfficientNet-Lite0 with ImageNet's weights, frozen, 16 cells of a picture of 128 pixels; a language model of "
        "3 layers of 64 numbers, trained on the words of captions and questions, and frozen in the first stage; a "
        "linear projector. Two coloured shapes a scene; what colour is a thing, and what lies left of another: chance "
        "1/8. Answers are written, and count where they are exact."
    ),
)
