"""Training in two stages: CLIP first, then SigLIP from the model that CLIP left, at a third of the rate.

    python examples/two_stages.py 300

Each stage has a folder of its own below `runs/two-stages`, with its model, checkpoints and history; the report shows
both. Kill the script at any moment and start it again: it goes on where it stopped, and a finished stage is not run
again. The number is how many steps each stage trains.
"""

import sys

import nearfar
from nearfar.data import train_tokenizer, world
from nearfar.evaluation import evaluate
from nearfar.methods import CLIP, SigLIP
from nearfar.training import Stage, TrainConfig, run_stages

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300

train, test = world.emoji("train"), world.emoji("test", styles=["noto"])


def first(previous):
    """A fresh model; there is no stage before."""
    model = nearfar.models.create("tiny", tokenizer=train_tokenizer(train.texts()))
    return CLIP(model, exclude_duplicates=True)


def second(previous):
    """What the first stage left, under another loss."""
    return SigLIP(previous.model, share_duplicates=True)


finished = run_stages(
    [
        Stage("clip", first, train, config=TrainConfig(steps=STEPS, batch_size=64, lr=1e-3)),
        Stage("siglip", second, train, config=TrainConfig(steps=STEPS, batch_size=64, lr=3e-4)),
    ],
    "runs/two-stages",
    resume=True,
)

recalls = []
for stage in finished:
    retrieval = evaluate(stage.model, test, ["retrieval"], captions=1)["retrieval"]
    recalls.append(retrieval.metrics["text_to_image_R@10"].value)
    print(f"{stage.name}: text-to-image R@10 {recalls[-1]:.3f}")
