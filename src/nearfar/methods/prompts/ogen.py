"""OGEN (arXiv 2401.15914): a prompt that is trained on some classes stays good for others, whose pictures a generator
imagines by their names, beside a teacher that averages the latest checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError, at_least
from nearfar.methods.base import Batch
from nearfar.methods.parts.momentum_encoder import MomentumEncoder
from nearfar.methods.parts.pending import Pending
from nearfar.methods.prompts.extrapolation import Branch, Extrapolation, branches, cosines, squared_distance
from nearfar.methods.prompts.feature_bank import Draw, FeatureBank
from nearfar.methods.prompts.feature_generator import ClassConditionalFeatureGenerator, Form
from nearfar.methods.prompts.local_mean_teacher import AdaptiveLocalMeanTeacher
from nearfar.methods.prompts.prompt_tuning import PromptTuning
from nearfar.prompting.class_texts import ClassTexts

Teacher = Literal["local", "mean", "none"]
CHECKPOINTS = 50
"""Of a run, where nothing else is said: the paper's longer runs have one an epoch."""


class OGEN(PromptTuning):
    """Prompt learning with imagined pictures of classes that have none.

    x is a picture's unit embedding, y its class, w_b and w_n the prompted texts of the classes with pictures (base) and
    of others (unknown), g the generator, sg a stop of the gradient, z pictures of neighbours. For each picture

        a = g( sg w_b[y] ,  sg w_b[N(y)] , z )          its own class, held out, from its K neighbours N(y)
        c = g( w_n[j] ,     sg w_b[N(j)] , z )          the K unknown classes j most like it

    In the first fifth of the steps the generator alone is trained, by `|a - x|^2`. Then prompt and generator are:

        L = generation  |a - T(a)|^2                     T(a): what the teacher makes of the same
          + known       CE( x w_b^T / tau , y )
          + held_out    CE( a w_b^T / tau , y )
          + unknown     CE( c w_n^T / tau , j )

    each with its weight. Generator and teacher are left behind after training: the model is one with a prompt, and
    costs as much. Names of unknown classes are used in training; where those of the test are not to be, any other
    names will do.

    Args:
        model: as for `prompt_tuning`, of any kind.
        classes, temperature: as for `prompt_tuning`.
        unknown: names of classes without pictures: a list, or a file of them (a text file with a name a line, or texts
            of classes). None: the classes of the data that `data.base_classes` leaves out, where it does.
        generation_weight, known_weight, held_out_weight, neighbours_weight, unknown_weight: of the terms (code: 1, 1/4,
            1/4, 1/12, 1/6); `neighbours_weight` is of the extrapolation "released" alone. 0 leaves a term out.
        neighbours: K (code: 3).
        extrapolation: "joint", from K neighbours at once (paper), "per_class", from one at a time, or "released", as
            the released code (`nearfar.methods.prompts.extrapolation.branches`).
        generator: its form, "paper" or "code".
        heads, dropout: of its attention.
        draw: what stands for a neighbour: one of its latest "picture"s (paper), or its mean with "gaussian" or, as in
            the released code, "uniform" noise.
        shots: how many of a class's latest pictures are kept.
        warmup_share: of the steps in which the generator alone is trained.
        teacher: "local" averages a window of checkpoints that grows (paper), "mean" all of them, "none" leaves the
            picture itself the target.
        m_min, m_max: the window at the beginning and at the end.
        decay: the old share of the teacher's average.
        checkpoint_every: steps from one checkpoint to the next; by default a fiftieth of the run.
        steps: of the run; by default those that the training loop has.

    Logs each term, and `accuracy` by the classes with pictures. Outside training the loss is the classification of
    pictures alone.

    Raises:
        UserError: as `prompt_tuning`; settings out of their range; a run of unknown length; a name among both kinds.

    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import create, prompted_encoder
    >>> names = ["a cat", "a dog", "a bird"]
    >>> model = prompted_encoder(create("tiny", tokenizer=train_tokenizer(names, 300)), context=2)
    >>> method = OGEN(model, classes=names, unknown=["a fish"], neighbours=2, warmup_share=0.0, steps=9)
    >>> batch = {"image": torch.rand(3, 3, 64, 64), "label": torch.tensor([0, 1, 2])}
    >>> method(batch)["loss"].backward()  # the pictures are kept after the step
    >>> method.after_step(1)
    >>> sorted(method(batch))
    ['accuracy', 'generation', 'held_out', 'known', 'loss', 'unknown']
    """

    user = "ogen"

    step: Tensor

    def __init__(
        self,
        model: Any,
        *,
        classes: Sequence[str] | None = None,
        temperature: float | None = None,
        unknown: Sequence[str] | str | None = None,
        generation_weight: float = 1.0,
        known_weight: float = 0.25,
        held_out_weight: float = 0.25,
        neighbours_weight: float = 0.25 / 3,
        unknown_weight: float = 0.5 / 3,
        neighbours: int = 3,
        extrapolation: Extrapolation = "joint",
        generator: Form = "paper",
        heads: int = 4,
        dropout: float = 0.1,
        draw: Draw = "picture",
        shots: int = 16,
        warmup_share: float = 0.2,
        teacher: Teacher = "local",
        m_min: int = 2,
        m_max: int = 9,
        decay: float = 0.9,
        checkpoint_every: int | None = None,
        steps: int | None = None,
    ) -> None:
        weights = {
            "generation": generation_weight,
            "known": known_weight,
            "held_out": held_out_weight,
            "neighbours": neighbours_weight if extrapolation == "released" else 0.0,
            "unknown": unknown_weight,
        }
        _check(weights, extrapolation=extrapolation, draw=draw, teacher=teacher)
        at_least(1, neighbours=neighbours, checkpoint_every=checkpoint_every, steps=steps)
        if not 0 <= warmup_share < 1:
            raise UserError(f"warmup_share is {warmup_share}: a share from 0 to below 1")
        super().__init__(model, classes=classes, temperature=temperature)
        self._unknown = None if unknown is None else _names(unknown)
        self._set_others()
        self.weights, self.k = weights, neighbours
        self.extrapolation, self.draw, self.warmup_share = extrapolation, draw, warmup_share
        self.generator = ClassConditionalFeatureGenerator(model.embed_dim, heads, dropout=dropout, form=generator)
        self.bank = FeatureBank(model.embed_dim, len(self.base), shots=shots)
        self.teacher: Any = {
            "local": lambda: AdaptiveLocalMeanTeacher(self.generator, m_min, m_max, decay=decay),
            "mean": lambda: MomentumEncoder(self.generator, decay),
            "none": lambda: None,
        }[teacher]()
        self.steps, self._every = steps, checkpoint_every
        self._stated_steps = steps
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._pending: Pending[tuple[Tensor, Tensor]] = Pending()

    def begin(self, data: DataInfo) -> None:
        if self._unknown is None:
            self._unknown = tuple(name.replace("_", " ") for name in data.other_classes or ())
        super().begin(data)
        self._set_others()
        self.bank.size(len(self.base))
        if len(self.base) <= self.k:
            raise UserError(
                f"ogen takes {self.k} neighbours of each class, and {data.name} has {len(self.base)} classes: name "
                f"more, or set neighbours to at most {max(0, len(self.base) - 1)}"
            )
        self.steps = self._stated_steps or data.steps
        self._length()

    def _set_others(self) -> None:
        """The names of the classes without pictures, none of which has some."""
        self.others = self._unknown or ()
        if shared := [name for name in self.others if name in self.base]:
            raise UserError(f"{shared[0]!r} is among the classes with pictures: leave it out of unknown")

    def before_step(self) -> None:
        super().before_step()
        self._pending.take()

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        image, label = self._inputs(embeddings, batch)
        if not self.training:
            return self.classified(image, self.model.class_texts(self.tokens(self.base), image), label)
        warm = self.warming()
        names = (*self.base, *(self.others if self.weights["unknown"] and not warm else ()))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not warm):
            texts = self.model.class_texts(self.tokens(names), image).to(image)
        base, unknown = texts.split([len(self.base), len(names) - len(self.base)], dim=-2)
        plain = self.classified(image, base, label)
        terms = self._terms(image, label, base, unknown if unknown.shape[-2] else None, warm)
        if not warm:
            terms["known"] = plain["loss"]
        # The first step has no pictures to imagine from: its loss is 0, with a gradient.
        start = sum((each.sum() for each in self.generator.parameters()), start=image.new_zeros(())) * 0
        weighted = [self.weights[name] * term for name, term in terms.items() if self.weights[name]]
        loss = sum(weighted, start=start if warm or not weighted else image.new_zeros(()))
        self._pending.after_backward(loss, (image.detach(), label))
        return {"loss": loss, "accuracy": plain["accuracy"], **{name: term.detach() for name, term in terms.items()}}

    def warming(self) -> bool:
        """Whether the generator alone is trained now."""
        return int(self.step) < int(self.warmup_share * self._length())

    def after_step(self, step: int) -> None:
        super().after_step(step)
        for image, label in self._pending.take():
            self.bank.write(image, label)
        self.step.fill_(step)
        if self.teacher is None or step % (self._every or max(1, self._length() // CHECKPOINTS)):
            return
        if isinstance(self.teacher, AdaptiveLocalMeanTeacher):
            self.teacher.push(step / self._length())
        else:
            self.teacher.update()

    def _terms(
        self, image: Tensor, label: Tensor, base: Tensor, unknown: Tensor | None, warm: bool
    ) -> dict[str, Tensor]:
        """The terms of what is generated; none while fewer than two classes have pictures, or where none counts."""
        counted = ("generation",) if warm else ("generation", "held_out", "neighbours", "unknown")
        k = min(self.k, int(self.bank.known.sum()) - 1)  # fewer in the first steps
        if k < 1 or not any(self.weights[name] for name in counted):
            return {}
        planned = branches(self.bank, base, unknown, image, label, k=k, how=self.extrapolation, draw=self.draw)
        terms = {"generation": image.new_zeros(())}
        with torch.autocast(image.device.type, enabled=False):  # attention that is trained overflows in half precision
            for name, branch in planned.items():
                made = self.generator(branch.query, branch.key, branch.value).reshape(*branch.label.shape, -1)
                if branch.target is not None:
                    terms["generation"] = terms["generation"] + squared_distance(made, self._target(branch, warm))
                if not warm:
                    texts = base if unknown is None or name != "unknown" else unknown
                    logits = cosines(made, texts) / self.temperature
                    terms[name] = F.cross_entropy(logits.flatten(0, 1), branch.label.flatten())
        return terms

    def _target(self, branch: Branch, warm: bool) -> Tensor:
        """The pictures themselves while the generator warms up, then what the teacher makes of the same."""
        assert branch.target is not None
        unready = isinstance(self.teacher, AdaptiveLocalMeanTeacher) and not self.teacher.ready
        if warm or self.teacher is None or unready:
            return branch.target
        return self.teacher(branch.query, branch.key, branch.value).reshape(branch.target.shape)

    def _length(self) -> int:
        if not self.steps:
            raise UserError(
                "ogen must know how long it trains, since the generator is trained alone at first: set method.steps"
            )
        return self.steps


def _check(weights: Mapping[str, float], **choices: str) -> None:
    for name, weight in weights.items():
        if not weight >= 0:
            raise UserError(f"{name}_weight is {weight}: a term counts from 0 on")
    known = {
        "extrapolation": ("joint", "per_class", "released"),
        "draw": ("picture", "gaussian", "uniform"),
        "teacher": ("local", "mean", "none"),
    }
    for name, value in choices.items():
        if value not in known[name]:
            raise UserError(f"{name} is {value!r}: choose one of {', '.join(known[name])}")


def _names(unknown: Sequence[str] | str) -> tuple[str, ...]:
    """Names as they are, or those of a file."""
    if not isinstance(unknown, str):
        names: Sequence[str] = unknown
    elif unknown.endswith(".txt"):
        try:
            lines = Path(unknown).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{unknown} cannot be read as a text file with a name a line: write one") from error
        names = [line.strip() for line in lines if line.strip()]
    else:
        names = ClassTexts.load(unknown).names
    return tuple(dict.fromkeys(name.replace("_", " ") for name in names))
