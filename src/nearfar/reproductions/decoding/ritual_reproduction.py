"""RITUAL (arXiv 2405.17821): adding what a model says of a randomly changed copy of a picture makes it say fewer things
that are not there; with VCD (arXiv 2311.16922) and M3ID beside it and together with it.

A small model is trained on scenes in which things usually come in twos. It answers questions as POPE asks them and
describes the scenes, under each way of decoding. One model a seed writes for all arms, so that they differ in decoding
alone. As `l + 3 l+` is sharper than `l`, there are controls that are as sharp without a changed picture.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from nearfar.decoding.conditions.image_conditions import ImageConditions
from nearfar.decoding.conditions.picture_transforms import SIX, TransformBank
from nearfar.evaluation.hallucination.chair_scores import ObjectNames, chair_scores
from nearfar.evaluation.hallucination.yes_no_scores import pope_scores, says_yes
from nearfar.reproductions.decoding import usual_company as setup
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction
from nearfar.reproductions.shared.per_query import PerQuery

CONFIG: dict[str, Any] = {
    "data": setup.DATA,
    "model": {"image": setup.TOWER, "language": setup.LANGUAGE, "projector": "linear"},
    "training": {"steps": 400, "batch_size": 48, "lr": 3e-3, "warmup": 0.1, "weight_decay": 0.01},
    "ritual": {"alpha": 3.0, "beta": 0.1},
    "vcd": {"a": 1.0, "noise_step": 500},
    "m3id": {"decay": 0.02},
    "tokens": {"answer": 3, "caption": 24},
}
ACCURACY, CHAIR_S = "accuracy", "CHAIR_S"
SAMPLING, GREEDY = "sampling", "greedy"
SAME = "RITUAL, same picture"


def conditions(seed: int) -> dict[str, ImageConditions]:
    """The arms that read more than the picture, with everything drawn by `seed`."""
    of = partial(ImageConditions.of, seed=seed)
    same = TransformBank({"same": lambda picture, chance, size: picture})
    return {
        "plausible tokens alone": of("ritual", alpha=0.0),
        "RITUAL": of("ritual"),
        SAME: ImageConditions(bank=same, seed=seed),
        "RITUAL, normalised": of("ritual", normalise=True),
        "RITUAL+": of("ritual-plus"),
        "VCD": of("vcd"),
        "M3ID": of("m3id"),
        "RITUAL + VCD": of("ritual-vcd"),
        "RITUAL + M3ID": of("ritual-m3id"),
    }


def run(seed: int) -> Arms:
    """All arms on one seed."""
    setup.KNOWN.clear()  # each seed draws its own changes
    model = trained(seed)
    drawn = {"do_sample": True, "top_k": 0, "seed": seed}
    arms: Arms = {
        SAMPLING: measured(Plain(model), **drawn),
        "sampling at 0.25": measured(Plain(model), temperature=0.25, **drawn),
        GREEDY: measured(Plain(model)),
        "greedy, another's picture": {ACCURACY: answered(Plain(model, shift=8))[ACCURACY]},
        "changed picture alone": measured(Changed(model, conditions(seed)["RITUAL"]), **drawn),
    }
    arms |= {name: measured(each.on(model), **drawn) for name, each in conditions(seed).items()}
    arms["RITUAL, greedy"] = measured(conditions(seed)["RITUAL"].on(model))
    for name in SIX:
        alone = ImageConditions(bank=TransformBank({name: SIX[name]}), seed=seed)
        arms[f"greedy, {name.replace('_', ' ')}"] = answered(alone.on(model))
    of_kind = arms[GREEDY]
    arms["usual company"] = {"denied": of_kind["adversarial, denied"]}
    arms["anything else"] = {"denied": of_kind["random, denied"]}
    return {arm: {name: value for name, value in each.items() if name in SHOWN} for arm, each in arms.items()}


def trained(seed: int) -> setup.CellsReader:
    """The model of a seed after training."""
    import nearfar

    model, own = setup.reader(seed), dict(CONFIG["training"])
    batches = setup.LessonBatches(own["steps"], own.pop("batch_size"), seed)
    nearfar.train(setup.Answering(model), batches, seed=seed, progress=False, report=False, **own)
    return model.eval()


class Plain:
    """A model that reads the picture alone; with a `shift` of more questions than a scene has that of another scene."""

    def __init__(self, model: setup.CellsReader, shift: int = 0) -> None:
        self.model, self.shift = model, shift

    def preprocess(self, pictures: list[Any]) -> Any:
        return self.model.preprocess(pictures[self.shift :] + pictures[: self.shift])

    def caption(self, pixels: Any, prompt: Any = None, **options: Any) -> list[str]:
        return self.model.caption(pixels, prompt, **options)


class Changed:
    """A model that reads the changed picture alone."""

    def __init__(self, model: setup.CellsReader, own: ImageConditions) -> None:
        self.model, self.conditions = model, own

    def preprocess(self, pictures: list[Any]) -> list[Any]:
        return pictures

    def caption(self, pictures: Any, prompt: Any = None, **options: Any) -> list[str]:
        changed = [each for _, each in self.conditions.transformed(self.model, pictures, prompt)]
        return self.model.caption(self.model.preprocess(changed), prompt, **options)


def measured(writer: Any, **options: Any) -> dict[str, Any]:
    """What a writer answers and describes."""
    return answered(writer, **options) | described(writer, **options)


def answered(writer: Any, **options: Any) -> dict[str, Any]:
    """Accuracy by question, of all and of each kind; F1 and the share of "yes"."""
    scenes, posed = setup.company("test"), setup.questions("test")
    pixels = writer.preprocess([scenes[each.scene].picture for each in posed])
    texts = writer.caption(pixels, [each.text for each in posed], max_tokens=CONFIG["tokens"]["answer"], **options)
    said = [says_yes(text) for text in texts]
    right = [one == each.yes for one, each in zip(said, posed, strict=True)]
    pope = pope_scores(said, [each.yes for each in posed])
    figures: dict[str, Any] = {
        ACCURACY: _by_scene(right, list(range(len(posed)))),
        "F1": pope["f1"],
        "yes": pope["yes_ratio"],
    }
    for kind in ("random", "popular", "adversarial"):
        own = [place for place, each in enumerate(posed) if each.kind == kind]
        figures[kind] = _by_scene(right, own)
        figures[f"{kind}, denied"] = _share([right[place] for place in own if not posed[place].yes])
    return figures


def described(writer: Any, **options: Any) -> dict[str, Any]:
    """CHAIR's figures of descriptions; CHAIR_S by scene."""
    scenes = setup.company("test")
    pixels = writer.preprocess([scene.picture for scene in scenes])
    texts = writer.caption(pixels, "", max_tokens=CONFIG["tokens"]["caption"], **options)
    scores = chair_scores(texts, [set(scene.places) for scene in scenes], ObjectNames(dict.fromkeys(setup.NOUNS, ())))
    some = [float(count > 0) for count in scores.invented]
    return {
        CHAIR_S: PerQuery(some, range(len(some))),
        "CHAIR_I": scores.chair_i if sum(scores.mentioned) else 0.0,
        "recall": scores.recall,
    }


SHOWN = (ACCURACY, "random", "popular", "adversarial", "F1", "yes", CHAIR_S, "CHAIR_I", "recall", "denied")
"""What is recorded."""


def _by_scene(right: list[bool], places: list[int]) -> PerQuery:
    posed = setup.questions("test")
    return PerQuery([right[place] for place in places], [posed[place].scene for place in places])


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)


reproduction = Reproduction(
    slug="ritual",
    run=run,
    claims=[
        Claim("answers are of the picture", GREEDY, "greedy, another's picture", ACCURACY, margin=0.1, premise=True),
        Claim(
            "a thing whose companion is there is the harder to deny",
            "usual company",
            "anything else",
            "denied",
            direction="lower",
            premise=True,
        ),
        Claim("RITUAL answers better than sampling", "RITUAL", SAMPLING, ACCURACY),
        Claim("the changed picture alone is worse than the picture", SAMPLING, "changed picture alone", ACCURACY),
        Claim("RITUAL answers better than VCD", "RITUAL", "VCD", ACCURACY),
        Claim("RITUAL answers better than M3ID", "RITUAL", "M3ID", ACCURACY),
        Claim("VCD gains by RITUAL", "RITUAL + VCD", "VCD", ACCURACY),
        Claim("fewer descriptions name what is not there", "RITUAL", SAMPLING, CHAIR_S, direction="lower"),
        Claim("RITUAL answers better than the same sharpness without a changed picture", "RITUAL", SAME, ACCURACY),
        Claim("RITUAL answers better than greedy decoding", "RITUAL", GREEDY, ACCURACY),
        Claim("greedy decoding gains by the changed picture", "RITUAL, greedy", GREEDY, ACCURACY),
    ],
    seeds=range(10, 15),
    pilot=0,
    config=CONFIG,
    note=(
        "A frozen ImageNet tower of 96 pixels, 9 tokens a picture, and a language model of 2 layers of 64 numbers, "
        "trained for some seconds; the paper's are LLaVA-1.5 and InstructBLIP. Test scenes and their questions are the "
        "same for all seeds; a seed draws the model, changes of pictures and tokens. alpha, beta, the noise and "
        "the decay are the papers'. Answers are of one word, where M3ID's coefficient is 0: there it is sampling of "
        "plausible tokens, and no more."
    ),
)
