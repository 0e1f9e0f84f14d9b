"""DITO (arXiv 2310.00161): a head over regions that learns from captions names things in boxes it was never shown, and
a second pass, shifted by half a window, makes it steadier.

Every arm begins with the same image-text training of whole pictures, and goes on for the same steps with the same
scenes: with whole pictures again, or with random regions, pooled by their mean or their maximum. Then a light detector
learns the boxes of half of the names, and is measured on the other half, with and without the scores of the model
before. Names are in captions, boxes in the test alone, but for that detector.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.reproductions.detection import captioned_things as setup
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "model": {"pair": setup.PAIR, **setup.DETECTOR},
    "objects": 3,
    "training": {"batch_size": 48, "lr": 3e-3, "warmup": 0.1},
    "steps": {"pictures": 200, "regions": 120, "boxes": 120},
    "method": {"boxes": [12, 6], "size": [0.15, 0.5]},
    "shift": 16,
}
BASE = setup.NAMES[::2]
"""The names that the light detector learns; the others are novel to it."""


def run(seed: int) -> Arms:
    """All arms on one seed."""
    several, one = CONFIG["objects"], 1
    start = further(setup.fresh(seed, shift=0), "clip", "pictures", several, seed)
    untrained = setup.fresh(seed, shift=0)
    clip = further(deepcopy(start), "clip", "regions", several, seed + 1)
    dito = further(deepcopy(start), "max", "regions", several, seed + 1)
    mean = further(deepcopy(start), "mean", "regions", several, seed + 1)
    shifted = further(setup.fresh(seed, shift=setup.DETECTOR["window"] // 2), "clip", "pictures", several, seed)
    shifted = further(shifted, "max", "regions", several, seed + 1)
    arms: Arms = {
        "untrained": measured(untrained, "map", several),
        "CLIP": measured(clip, "map", several),
        "mean of regions": measured(mean, "head", several),
        "DITO": measured(dito, "head", several),
        "DITO + shifted windows": measured(shifted, "head", several),
    }
    single = further(setup.fresh(seed, shift=0), "clip", "pictures", one, seed)
    alone = measured(further(deepcopy(single), "max", "regions", one, seed + 1), "head", one)
    of_one = measured(further(single, "clip", "regions", one, seed + 1), "map", one)
    for name, head, whole in (
        ("several things", arms["DITO"], arms["CLIP"]),
        ("one thing", alone, of_one),
    ):
        arms[name] = {"gain": float(head["region accuracy"]) - float(whole["region accuracy"])}
    detector = further(deepcopy(dito), "boxes", "boxes", several, seed + 2)
    arms["detector"] = detected(detector)
    arms["detector + frozen scores"] = detected(detector.keep_frozen(dito))
    return arms


def further(model: Any, what: str, stage: str, objects: int, seed: int) -> Any:
    """The model after some steps of whole pictures ("clip"), of regions ("max", "mean"), or of boxes."""
    import nearfar
    from nearfar.methods import CLIP, DITO, Detection

    if what == "clip":
        model.train_parts("image", "image_projection", "text")
        method: Any = CLIP(model)
    elif what == "boxes":
        method = Detection(model, base=BASE)
    else:
        method = DITO(model, pool=what, **CONFIG["method"])
    training, steps = dict(CONFIG["training"]), CONFIG["steps"][stage]
    scenes = setup.named_scenes("train", objects)
    batches = setup.SceneBatches(scenes, model, steps, training.pop("batch_size"), seed)
    nearfar.train(method, batches, steps=steps, seed=seed, progress=False, report=False, **training)
    return model.eval()


@torch.no_grad()
def measured(model: Any, read: str, objects: int) -> dict[str, PerQuery]:
    """Of each thing in the test scenes: whether its box is named rightly, whether the model points at it, and whether
    its name is another when the scene is moved by half a window; of scenes in which some thing stays whole then."""
    scenes = setup.named_scenes("test", objects)
    texts = model.encode_text(model.tokenize(setup.NAMES), normalize=True)
    called = names_of(model, scenes, texts, read)
    group = torch.arange(len(scenes.label))[:, None].expand_as(scenes.label)
    other, whole = setup.moved(scenes, CONFIG["shift"])
    changed = names_of(model, other, texts, read) != called
    hits = pointed(model, scenes, texts, read)
    figures = {
        "region accuracy": PerQuery((called == scenes.label).flatten().numpy(), group.flatten().numpy()),
        "pointing": PerQuery(hits.flatten().numpy(), group.flatten().numpy()),
    }
    if whole.any():  # a thing that stands alone fills its scene
        figures["changed names"] = PerQuery(changed[whole].numpy(), group[whole].numpy())
    return figures


def names_of(model: Any, scenes: setup.NamedScenes, texts: Tensor, read: str) -> Tensor:
    """What each thing's box is called, `[N, M]` long."""
    regions = of_boxes(model, scenes.pictures, scenes.boxes, read)
    return (F.normalize(regions, dim=-1) @ texts.T).argmax(-1)


def of_boxes(model: Any, pictures: Tensor, boxes: Tensor, read: str) -> Tensor:
    """Embeddings `[N, R, D]` of boxes, by the head or by the mean of the map within them."""
    from nearfar.ops.regions import roi_align

    parts = []
    for some, of_them in zip(pictures.split(50), boxes.split(50), strict=True):
        if read == "head":
            parts.append(model.encode_regions(setup.pixels(some), of_them))
        else:
            cells = model.encode_image_map(setup.pixels(some))
            stride = some.shape[-1] / cells.shape[-1]
            parts.append(roi_align(cells, of_them, 7, stride=stride).mean((3, 4)))
    return torch.cat(parts)


def pointed(model: Any, scenes: setup.NamedScenes, texts: Tensor, read: str) -> Tensor:
    """Whether, of boxes of a quarter of the side around the middles of 8 x 8 cells, the one that is most like a thing's
    name has its middle in the thing, `[N, M]` bool."""
    side = scenes.pictures.shape[-1]
    middle = (torch.arange(8) + 0.5) * side / 8
    y, x = (each.flatten() for each in torch.meshgrid(middle, middle, indexing="ij"))
    boxes = torch.stack([x - side / 8, y - side / 8, x + side / 8, y + side / 8], 1).clamp(0, side)
    regions = of_boxes(model, scenes.pictures, boxes.expand(len(scenes.pictures), -1, -1), read)
    cosines = F.normalize(regions, dim=-1) @ texts.T
    best = cosines.transpose(1, 2).gather(1, scenes.label[..., None].expand(-1, -1, 64)).argmax(-1)
    at = torch.stack([x[best], y[best]], -1)
    return ((at >= scenes.boxes[..., :2]) & (at <= scenes.boxes[..., 2:])).all(-1)


@torch.no_grad()
def detected(model: Any) -> dict[str, float]:
    """Average precision at an overlap of 0.5, of base and of novel names."""
    from nearfar.evaluation.detection.average_precision import average_precision

    scenes = setup.named_scenes("test", CONFIG["objects"])
    texts = model.encode_text(model.tokenize(["", *setup.NAMES]))
    is_base = torch.tensor([name in BASE for name in setup.NAMES])
    outputs: list[dict[str, Any]] = []
    for some in scenes.pictures.split(50):
        each = model.detect(setup.pixels(some), texts, is_base=is_base, proposals=60)
        outputs += [{key: value.tolist() for key, value in one.items()} for one in each]
    truth = [
        {"boxes": boxes.tolist(), "labels": label.tolist()}
        for boxes, label in zip(scenes.boxes, scenes.label, strict=True)
    ]
    scored = average_precision(truth, outputs, len(setup.NAMES))
    kinds = {"AP50 base": is_base, "AP50 novel": ~is_base}
    return {kind: scored.mean(chosen.nonzero().flatten().tolist())[1] for kind, chosen in kinds.items()}


reproduction = Reproduction(
    slug="dito",
    run=run,
    claims=[
        Claim(
            "captions of whole pictures teach a map what things are",
            "CLIP",
            "untrained",
            "region accuracy",
            premise=True,
        ),
        Claim("a head that learned from regions names things better", "DITO", "CLIP", "region accuracy", floor=1 / 12),
        Claim("it points at them better, too", "DITO", "CLIP", "pointing"),
        Claim("the maximum over regions is better than their mean", "DITO", "mean of regions", "region accuracy"),
        Claim("a shifted second pass adds to it", "DITO + shifted windows", "DITO", "region accuracy"),
        Claim(
            "with it names change less when a scene moves by half a window",
            "DITO + shifted windows",
            "DITO",
            "changed names",
            direction="lower",
        ),
        Claim("the gain is smaller where pictures show one thing", "several things", "one thing", "gain"),
        Claim("frozen scores find more things of novel names", "detector + frozen scores", "detector", "AP50 novel"),
    ],
    seeds=range(10, 15),
    pilot=0,
    config=CONFIG,
    note=(
        "A ViT of 4 layers of 64 numbers on 1,500 scenes of 64 pixels with 3 of 12 things; the paper trains ViT-L on "
        "billions of pairs. Whole pictures for 200 steps, then 120 more of whole pictures or of regions; one learning "
        "rate for all, from a run of CLIP, DITO and the mean on validation scenes with another seed, in which the mean "
        "was ahead of the maximum; nothing was changed after it but the steps of the second stage (from 150) and the "
        "number of seeds (from 3). CLIP's regions are read from its map, the others' by the head. Boxes are of the "
        "test alone, but for the detector."
    ),
)
