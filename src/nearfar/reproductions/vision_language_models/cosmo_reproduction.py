"""COSMO (arXiv 2401.00849): a language model that sees pictures in its upper layers alone, and learns to tell pictures
apart by its lower ones, retrieves, and writes no worse than one that sees them everywhere.

An image tower and a language model are trained once, for all seeds, and frozen. All arms have both, and of a seed the
same batches in the same order; where blocks stand, and whether the contrast is beside the next token, differs. No
pair of a test picture is in training, each of its things is.
"""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from nearfar.methods.lvlm.interleaved.cosmo import COSMO, RELEASED_TEMPERATURE
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery
from nearfar.reproductions.vision_language_models import described_sprites as setup
from nearfar.reproductions.vision_language_models import shown_documents as shown

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "model": {"image": setup.VIT, "language": shown.LANGUAGE, "parts": shown.PARTS},
    "language model": shown.WORDS,
    "tower": shown.TOWER,
    "batch": {"singles": 24, "documents": 6},
    "training": {"steps": 250, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.01},
    "examples": 2,
}
EVERYWHERE = {"unimodal_layers": 0, "interval": 1, "compress": 1}
SPLIT = {"unimodal_layers": 2, "interval": 1, "compress": 2}
FLAMINGO, NO_CONTRAST, METHOD, RELEASED = "all layers", "upper layers", "COSMO", "COSMO, released start"
SHAPES: dict[str, dict[str, int]] = {FLAMINGO: EVERYWHERE, NO_CONTRAST: SPLIT, METHOD: SPLIT, RELEASED: SPLIT}
SETTINGS: dict[str, dict[str, Any]] = {
    FLAMINGO: {"contrast": 0.0},
    NO_CONTRAST: {"contrast": 0.0},
    METHOD: {},
    RELEASED: {"temperature": RELEASED_TEMPERATURE},
}
RECALL, RANKED = "R@1", "R@1 by likelihood"
WRITTEN, SHOTS, STYLE, SIZE = "written right", "written right, 2 examples", "style of examples", "thousands trained"


def run(seed: int) -> Arms:
    """All arms on one seed."""
    arms: Arms = {"chance": {RECALL: 1 / len(setup.pairs("test"))}}
    for arm in SHAPES:
        model = trained(arm, seed)
        arms[arm] = measured(model, "test", embeds=arm in (METHOD, RELEASED))
        if arm == METHOD:
            arms["COSMO, another's picture"] = {WRITTEN: written(model, "test", shift=1)[WRITTEN]}
    return arms


def trained(arm: str, seed: int) -> Any:
    """The model of an arm after training."""
    import nearfar

    model = shown.model_of(seed, **SHAPES[arm])
    method, settings = COSMO(model, **SETTINGS[arm]), CONFIG["training"]
    batches = shown.MixedBatches(model, settings["steps"], **CONFIG["batch"], seed=seed)
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **settings)
    return method.model.eval()


@torch.no_grad()
def measured(model: Any, split: str, *, embeds: bool) -> dict[str, Any]:
    """Whether each title finds its picture first among those of a split: by embeddings, or where there are none by its
    likelihood; what is written; and how many parameters were trained."""
    pairs = setup.pairs(split)
    tokens, pixels = model.tokenize([setup.title(pair) for pair in pairs]), setup.pixels(_pictures(split))
    pictures = model.picture_tokens(pixels)
    likelihood = [
        model.likelihoods(picture.expand(len(pairs), -1, -1), tokens).log_likelihood.double().sum(1)
        for picture in pictures
    ]
    ranked = _ranks_first(torch.stack(likelihood, dim=1))
    first = ranked
    if embeds:
        image, text = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
        first = _ranks_first(text.double() @ image.double().T)
    count = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return {RECALL: first, RANKED: ranked, **written(model, split), SIZE: count / 1000}


def _ranks_first(scores: torch.Tensor) -> PerQuery:
    """Of scores `[texts, pictures]` whether each text's own picture is strictly first."""
    best = scores.max(1, keepdim=True).values
    right = (scores.argmax(1) == torch.arange(len(scores))) & ((scores == best).sum(1) == 1)
    return PerQuery(right.double().tolist(), list(range(len(scores))))


@torch.no_grad()
def written(model: Any, split: str, *, shift: int = 0) -> dict[str, Any]:
    """Of each picture the share of its two colours and two shapes that stand at their place in what is written, without
    examples and behind two, and whether that has the style of the examples. With `shift` the pictures are those of
    other pairs, without examples."""
    pairs = setup.pairs(split)
    pixels = setup.pixels(_pictures(split)).roll(shift, 0)
    places = list(range(len(pairs)))
    plain = PerQuery(list(map(share_right, model.caption(pixels, max_tokens=24), pairs)), places)
    if shift:
        return {WRITTEN: plain}
    right, follows = [0.0] * len(pairs), [0.0] * len(pairs)
    for number, style in enumerate(shown.STYLES):
        own = places[number :: len(shown.STYLES)]
        examples = shown.drawn_pairs(Random(f"examples {split} {style}"), CONFIG["examples"])
        chance = Random(f"their pictures {split} {style}")
        shots = setup.pixels([setup.picture(pair, chance) for pair in examples])
        texts = model.caption(pixels[own], shots=(shots, [shown.said(pair, style) for pair in examples]), max_tokens=24)
        for place, text in zip(own, texts, strict=True):
            right[place], follows[place] = share_right(text, pairs[place]), float(shown.style_of(text) == style)
    return {WRITTEN: plain, SHOTS: PerQuery(right, places), STYLE: PerQuery(follows, places)}


def share_right(text: str, pair: setup.Pair) -> float:
    """The share of two colours and two shapes that are right at their place.

    >>> pair = (setup.Thing("red", "bar"), setup.Thing("blue", "ring"))
    >>> share_right("a red bar and a blue cross", pair), share_right("a blue ring", pair)
    (0.75, 0.0)
    """
    named = [word for word in text.split() if word in setup.COLOURS or word in setup.SHAPES][:4]
    truth = [each for thing in pair for each in thing]
    return sum(one == other for one, other in zip(named, truth, strict=False)) / len(truth)


def _pictures(split: str) -> list[Any]:
    return [setup.picture(pair, Random(f"picture {split} {n}")) for n, pair in enumerate(setup.pairs(split))]


reproduction = Reproduction(
    slug="cosmo",
    run=run,
    claims=[
        Claim("what is written is of the picture", METHOD, "COSMO, another's picture", WRITTEN, premise=True),
        Claim("the contrast makes an embedder", METHOD, "chance", RECALL, premise=True, constant=True),
        Claim(
            "embeddings retrieve better than likelihoods of a model that was trained without the contrast",
            METHOD,
            NO_CONTRAST,
            RECALL,
            floor="chance",
        ),
        Claim("with the contrast more of what is there is written", METHOD, NO_CONTRAST, WRITTEN),
        Claim("and at most five points less", METHOD, NO_CONTRAST, WRITTEN, margin=-0.05),
        Claim("behind two examples more is right than without the contrast", METHOD, NO_CONTRAST, SHOTS),
        Claim(
            "pictures in the upper layers alone cost at most five points", NO_CONTRAST, FLAMINGO, SHOTS, margin=-0.05
        ),
        Claim("COSMO writes better than a model that sees pictures in all layers", METHOD, FLAMINGO, SHOTS),
        Claim("a start at 0.07 retrieves better than the released one", METHOD, RELEASED, RECALL, floor="chance"),
    ],
    seeds=range(10, 14),
    pilot=0,
    config=CONFIG,
    note=(
        "A ViT of 2 layers that was trained by contrast with titles, and a language model of 4 layers that was trained "
        "on texts alone, both 64 wide and one for all seeds; 250 steps of 24 titled pictures and 6 documents of three, "
        "with one learning rate for all arms. R@1 of 80 test pictures by their titles, by embeddings where there are, "
        "and else by likelihood. Written right: two colours and two shapes at their place, chance 0.18. "
        "'all layers' has four blocks that are not narrowed, the others have two that are."
    ),
)
