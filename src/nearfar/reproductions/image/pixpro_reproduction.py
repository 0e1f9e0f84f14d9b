"""PixPro (arXiv 2011.10043): learning by cells makes better maps than learning by pictures, and propagation adds to it.

Every arm trains the same small network from scratch on the same scenes of two things, in the same steps; only the loss
differs, and its learning rate, which is chosen for each arm on validation scenes. Its frozen maps are then read cell by
cell by a linear probe that knows the class of each pixel, and its pooled features by another that knows which of the
two things is larger, on scenes of pairs of things that training does not show.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.reproductions.setups.scene_views import CONFIG as DATA
from nearfar.reproductions.setups.scene_views import misplaced, painted, view_batches
from nearfar.reproductions.shared.choosing import Grid, Setting
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "model": {
        "image": {
            "model_type": "resnet",
            "embedding_size": 16,
            "hidden_sizes": [32, 64],
            "depths": [1, 1],
            "layer_type": "basic",
        },
        "image_size": DATA["size"],
    },
    "method": {"hidden": 256, "out": 64, "momentum": 0.98},
    "training": {"batch_size": 32, "steps": 80, "warmup": 0.1, "weight_decay": 1e-4},
    "probe": {"scenes": 400, "few": 50, "max_iter": 40},
    "data": DATA,
}
ARMS: dict[str, dict[str, Any]] = {
    "instance": {"pixels": "none", "instance_weight": 1.0},
    "PixContrast": {"pixels": "contrast"},
    "consistency": {"pixels": "plain"},
    "PixPro": {},
    "PixPro + instance": {"instance_weight": 1.0},
    "shuffled places": {},
}
UNTRAINED = "untrained"


def run(seed: int, chosen: dict[str, Setting]) -> Arms:
    """All arms on one seed, each with its own setting, beside the same network untrained."""
    models = {UNTRAINED: fresh(seed)} | {arm: trained(arm, seed, **chosen[arm]) for arm in ARMS}
    return {arm: probed(model, "test") for arm, model in models.items()}


def validated(arm: str, setting: Setting, seed: int) -> float:
    """Mean IoU on validation scenes."""
    return probed(trained(arm, seed, **setting), "val")["mIoU"]


def fresh(seed: int) -> Any:
    """The network as every arm begins with it."""
    from nearfar.models import image_encoder

    torch.manual_seed(seed)
    return image_encoder(**CONFIG["model"])


def trained(arm: str, seed: int, *, lr: float) -> Any:
    """The network after training as an arm."""
    import nearfar
    from nearfar.methods import PixPro

    model, training = fresh(seed), dict(CONFIG["training"])
    method = PixPro(model, **CONFIG["method"], **ARMS[arm])
    batches = view_batches(seed, training.pop("batch_size"), training["steps"], tuple(model.mean), tuple(model.std))
    if arm == "shuffled places":
        batches = [misplaced(batch) for batch in batches]
    nearfar.train(method, batches, seed=seed, lr=lr, progress=False, report=False, **training)
    return model


def probed(model: Any, split: str) -> dict[str, float]:
    """What linear probes find in the frozen maps of a split's scenes, and how many dimensions these use."""
    from nearfar.classifiers import LinearProbe
    from nearfar.classifiers.cell_probe import CellProbe, class_shares
    from nearfar.evaluation.measures.overlap import Overlaps
    from nearfar.evaluation.protocols.geometry import effective_rank

    settings, known, unseen = CONFIG["probe"], painted("train"), painted(split)
    count = settings["scenes"]
    fit, maps = maps_of(model, known.pictures[:count]), maps_of(model, unseen.pictures)
    shares = class_shares(known.masks[:count], known.classes, (fit.shape[2], fit.shape[3]))
    figures = {}
    for name, labelled in (("mIoU", count), ("mIoU, few labels", settings["few"])):
        probe = CellProbe(max_iter=settings["max_iter"]).fit(fit[:labelled], shares[:labelled])
        predicted = probe.masks(maps, unseen.masks.shape[1])
        figures[name] = Overlaps.of(predicted, unseen.masks, known.classes).mean_iou()
    pooled = LinearProbe(cs=[1.0]).fit(fit.mean((2, 3)), known.largest[:count])
    right = pooled.predict(maps.mean((2, 3))) == unseen.largest.numpy()
    figures["larger thing"] = float(right.mean())
    cells = maps.movedim(1, -1).flatten(0, 2)
    return figures | {"effective rank": effective_rank(cells[::9])}


@torch.no_grad()
def maps_of(model: Any, pictures: Tensor) -> Tensor:
    """The maps `[N, C, H, W]` of pictures `[N, 3, S, S]` uint8."""
    from nearfar.modes import evaluating

    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (model.mean, model.std))
    with evaluating(model):
        return torch.cat([model.encode_image_map((part / 255 - mean) / std) for part in pictures.split(100)])


reproduction = Reproduction(
    slug="pixpro",
    run=run,
    claims=[
        Claim("maps that PixPro trained are better than untrained ones", "PixPro", UNTRAINED, "mIoU", premise=True),
        Claim("PixPro's maps are better than those of learning by pictures", "PixPro", "instance", "mIoU", effect=0.02),
        Claim(
            "PixContrast's maps are better than those of learning by pictures",
            "PixContrast",
            "instance",
            "mIoU",
            effect=0.02,
        ),
        Claim("PixPro's maps are better than PixContrast's", "PixPro", "PixContrast", "mIoU", effect=0.02),
        Claim("propagation makes better maps than consistency alone", "PixPro", "consistency", "mIoU", effect=0.02),
        Claim(
            "with few labels, too, PixPro beats learning by pictures",
            "PixPro",
            "instance",
            "mIoU, few labels",
            effect=0.02,
        ),
        Claim(
            "of whole pictures, learning by pictures tells more than PixPro",
            "instance",
            "PixPro",
            "larger thing",
            effect=0.03,
            floor=1 / 8,
        ),
        Claim(
            "with the instance branch PixPro tells more of whole pictures",
            "PixPro + instance",
            "PixPro",
            "larger thing",
            effect=0.03,
            floor=1 / 8,
        ),
        Claim("the gain hangs on the right places", "PixPro", "shuffled places", "mIoU", effect=0.02),
    ],
    seeds=range(100, 112),
    pilot=0,
    grid=Grid(list(ARMS), {"lr": [5e-4, 2e-3, 6e-3]}, validated, "mean IoU"),
    config=CONFIG,
    note=(
        "A network of four convolutions on 1,000 scenes of 64 pixels for 80 steps of 32, where the paper trains a "
        "ResNet-50 on ImageNet for 125,000 steps of 1,024. Learning by pictures is the instance branch alone, "
        "BYOL's loss of pooled maps. With shuffled places each second view has the geometry of another scene's. "
        "The linear probes know 400 scenes, or 50. All arms of a seed learn from the same views."
    ),
)
