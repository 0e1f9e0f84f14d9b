"""X-CLIP (arXiv 2208.02816): messages between frames, a transformer over them with an embedding of time, and class
names adapted to each video make of an image-text model one that tells motions, which a mean of frames cannot.

Every arm starts from the same image-text model, trained on captioned stills, and trains on the same clips for the same
steps; only the added parts differ, and the learning rate, which is chosen for each arm on other clips. Each motion has
an opposite that shows the same frames in another order, so that an arm that does not know the order can tell a colour
and the axis of a motion, and no more. Zero-shot: pairs of colour and motion that training never shows, by their names.
Few-shot: on from there, with K clips of each of three other events.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery
from nearfar.reproductions.video import moving_things as setup

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "start": {"model": setup.MODEL, "training": setup.STILLS},
    "training": {"steps": 300, "batch_size": 24, "warmup": 0.1, "weight_decay": 0.01},
    "method": {"mixup": 0.0, "cutmix": 0.0, "temperature": 0.01},
    "few_shot": {"shots": [2, 4, 8, 16], "steps": 30, "batch_size": 16},
}
MEAN = {"messages": False, "integration_layers": 0, "prompt_layers": 0}
PARTS: dict[str, dict[str, Any]] = {
    "single frame": MEAN,
    "mean of frames": MEAN,
    "X-CLIP": {},
    "without messages": {"messages": False},
    "without integration": {"integration_layers": 0},
    "without prompts": {"prompt_layers": 0},
    "without the embedding of time": {},
}
FEW_SHOT = ("mean of frames", "X-CLIP")


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting; and the start, as a mean of frames and with what is added."""
    arms: Arms = {}
    for arm in PARTS:
        model = trained(arm, seed, **chosen[arm])
        arms[arm] = measured(arm, model, "test")
        if arm in FEW_SHOT:
            arms[arm] |= few_shot(arm, model, seed, **chosen[arm])
    untrained = {f"{arm}, before training": measured(arm, fresh(arm, seed), "test") for arm in FEW_SHOT}
    return arms | untrained


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """Accuracy on clips that are neither trained on nor tested."""
    return float(measured(arm, trained(arm, seed, **setting), "val")["accuracy"])


def fresh(arm: str, seed: int) -> Any:
    """The model of an arm before training."""
    from nearfar.models import video_encoder

    torch.manual_seed(seed)
    model = video_encoder(setup.start(seed), frames=setup.DATA["frames"], **PARTS[arm])
    if arm == "without the embedding of time":
        time: Any = model.integration.time
        time.requires_grad_(False).zero_()
    return model.eval()


def trained(arm: str, seed: int, *, lr: float) -> Any:
    """The model of an arm after training on clips that the seed draws."""
    classes = setup.classes(trained=True)
    data, label = classes.among(setup.training_clips(seed))
    return further(arm, fresh(arm, seed), data, label, classes.names, seed, lr=lr, **CONFIG["training"])


def further(
    arm: str, model: Any, data: setup.Clips, label: Tensor, names: list[str], seed: int, **training: Any
) -> Any:
    """The model after training on these clips."""
    import nearfar
    from nearfar.methods import XCLIP

    method = XCLIP(model, classes=names, **CONFIG["method"])
    batches = setup.ClipBatches(frames_of(arm, data), label, training.pop("batch_size"), training["steps"])
    nearfar.train(method, batches, seed=seed, progress=False, report=False, **training)
    return model.eval()


def few_shot(arm: str, model: Any, seed: int, *, lr: float) -> dict[str, PerQuery]:
    """Accuracy on events after training on K clips of each, for each K, from the model as it is."""
    from copy import deepcopy

    settings, counts = dict(CONFIG["few_shot"]), setup.DATA["events_clips"]
    classes, names = setup.events(), tuple(setup.DATA["events"])
    data = setup.clips("train", counts["train"], names, seed)
    test = setup.test_clips(counts["test"], names)
    figures = {}
    for shots in settings.pop("shots"):
        rows = torch.cat([(data.motion == event).nonzero()[:shots, 0] for event in range(len(names))])
        shown, label = classes.among(data.rows(rows))
        tuned = further(
            arm, deepcopy(model), shown, label, classes.names, seed, lr=lr, warmup=0.1, weight_decay=0.01, **settings
        )
        figures[f"{shots}-shot"] = hits(scores(arm, tuned, test, classes.names), classes, test)
    return figures


def measured(arm: str, model: Any, split: str) -> dict[str, PerQuery]:
    """Accuracy among the names that were trained on, of their colours alone, and among those that were not."""
    count, motions = setup.DATA["clips"][split], tuple(setup.DATA["motions"])
    data = setup.test_clips(count, motions) if split == "test" else setup.clips(split, count, motions)
    figures = {}
    for metric, is_trained in (("accuracy", True), ("zero-shot", False)):
        classes = setup.classes(trained=is_trained)
        clips, _ = classes.among(data)
        cosines = scores(arm, model, clips, classes.names)
        figures[metric] = hits(cosines, classes, clips)
        if is_trained:
            colour = (classes.number >= 0).nonzero()[:, 0][cosines.argmax(1)]
            figures["colour"] = PerQuery((colour == clips.colour).numpy(), range(len(clips.colour)))
    return figures


def hits(cosines: Tensor, classes: setup.Classes, data: setup.Clips) -> PerQuery:
    """Whether each clip's own class comes first."""
    label = classes.number[data.colour, data.motion]
    return PerQuery((cosines.argmax(1) == label).numpy(), range(len(label)))


@torch.no_grad()
def scores(arm: str, model: Any, data: setup.Clips, names: list[str]) -> Tensor:
    """Cosines `[N, K]` of clips and names."""
    from nearfar.modes import evaluating

    with evaluating(model):
        texts = model.encode_text(model.tokenize(names))
        parts = frames_of(arm, data).split(128)
        return torch.cat([model.similarities(setup.pixels(part), texts) for part in parts])


def frames_of(arm: str, data: setup.Clips) -> Tensor:
    """All frames of each clip; for the arm of a single frame one, drawn for each."""
    if arm != "single frame":
        return data.frames
    n, frames = data.frames.shape[:2]
    drawn = torch.randint(frames, (n,), generator=torch.Generator().manual_seed(n))
    return data.frames[torch.arange(n), drawn][:, None]


def _claim(text: str, baseline: str, metric: str = "accuracy", *, effect: float = 0.1, **options: Any) -> Claim:
    """The whole model against a baseline."""
    return Claim(text, "X-CLIP", baseline, metric, effect=effect, **options)


reproduction = Reproduction(
    slug="x-clip",
    run=run,
    claims=[
        Claim("a mean of frames tells more than one frame", "mean of frames", "single frame", "accuracy", premise=True),
        _claim("tells motions that a mean of frames cannot", "mean of frames"),
        _claim(
            "zero-shot: of pairs of colour and motion that training never shows, too", "mean of frames", "zero-shot"
        ),
        _claim("few-shot: with 2 clips of each event", "mean of frames", "2-shot"),
        _claim("few-shot: with 16 clips of each event", "mean of frames", "16-shot"),
        _claim("tells colours at most three points worse", "mean of frames", "colour", margin=-0.03, effect=0.03),
        _claim("messages between frames add to it", "without messages", effect=0.03),
        _claim("the transformer over frames adds to it", "without integration"),
        _claim("prompts that are adapted to the video add to it", "without prompts", effect=0.03),
        _claim("the embedding of time is what knows the order", "without the embedding of time"),
    ],
    seeds=range(20, 33),  # none of the earlier records', see the note
    grid=Grid(tuple(PARTS), {"lr": [1e-3, 3e-3]}, validated, "accuracy"),
    config=CONFIG,
    note=(
        "Clips of 6 frames of 32 pixels, 32 classes to train on and 16 others; the start is a ViT of 2 layers with a "
        "small BERT, trained by CLIP's loss on stills, in the place of CLIP ViT-B/16, and clips are not mixed. Chance"
        " is 0.031 (accuracy), 0.062 (zero-shot) and 0.333 (few-shot); what tells colours and axes of motion and no "
        "order reaches 0.5, 0.5 and 0.667. What is added learns at ten times the rate of the image tower, as in the "
        "paper; temperature 0.01, which CLIP learned. A first record decided 1 of 9 claims; after its test figures "
        "were seen, pooling of the texts, steps and batch were changed, on validation seeds, and a second record on "
        "the same test clips decided 7. This one is its confirmation: nothing was changed but the seeds, the test "
        "clips, which were drawn anew, and a pilot that plans how many seeds are judged."
    ),
)
