"""Classes as fixed vectors of an image-text model, by their names or by texts of their own: what a student is pulled
to, and what it predicts by (VL2V-ADiP, arXiv 2310.08255; several templates as CLIP's, arXiv 2103.00020)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.video.frozen_texts import FrozenTexts
from nearfar.prompting.class_texts import ClassTexts
from nearfar.prompting.prompt_templates import templates as sentences


class ClassBank:
    """One unit vector a class: the mean of the unit embeddings of its sentences, one a template or as many as it has
    texts, scaled to unit length again. A frozen text tower embeds them once, as `FrozenTexts` does.

    Args:
        templates: what a name is put into, as for `nearfar.prompting.templates`.
        classes: the name of each label; None: those of the training data, by `begin`.
        texts: sentences of each class in the place of names in templates, as `nearfar.evaluation.zero_shot` takes them:
            a JSON or YAML file of them by class, or `ClassTexts`. Classes are known by their names.
        user: who needs the names, in messages.

    Underscores in names become spaces (`desk_lamp`), as folders often hold them.

    Raises:
        UserError: a template without a place for the name, the same name twice, or texts that lack a class.

    >>> bank = ClassBank("a photo of a {}", ["desk_lamp", "mug"])
    >>> bank.texts.sentences
    (('a photo of a desk lamp',), ('a photo of a mug',))
    """

    def __init__(
        self,
        templates: str | Sequence[str],
        classes: Sequence[str] | None = None,
        *,
        texts: str | Path | ClassTexts | None = None,
        user: str = "this method",
    ) -> None:
        self.templates, self.user = sentences(templates), user
        self.source = "" if texts is None or isinstance(texts, ClassTexts) else f"{texts}: "
        self.held = texts if texts is None or isinstance(texts, ClassTexts) else ClassTexts.load(texts)
        self.texts: ClassTexts | None = None
        self._frozen = FrozenTexts()
        self._tokens: Any = None
        if classes is not None:
            self.name(classes)

    def name(self, classes: Sequence[str]) -> None:
        """Take these names, one a label."""
        names = [each.replace("_", " ") for each in classes]
        if twice := sorted({each for each in names if names.count(each) > 1}):
            raise UserError(f"two classes are called {twice[0]!r}: texts cannot tell them apart, so give each its own")
        if self.held is None:
            self.texts, self._tokens = ClassTexts.of(names, self.templates), None
        else:
            self.texts, self._tokens = self.held.for_names(list(classes), where=self.source), None

    def begin(self, data: DataInfo) -> None:
        """Take the names of the training data, where none were set.

        Raises:
            UserError: the data name no classes.
        """
        if self.texts is None:
            if not data.classes:
                raise UserError(
                    f"{data.name} names no classes, which {self.user} learns by: set method.classes, or take data with "
                    "class folders or a column of labels"
                )
            self.name(data.classes)

    def __call__(self, model: Any) -> Tensor:
        """The classes' unit vectors `[C, D]`, float32 or wider, by `model.tokenize` and `model.encode_text`.

        Raises:
            UserError: no names yet.
        """
        if self.texts is None:
            raise UserError(f"{self.user} knows no class names yet: set classes, or call begin with the data's first")
        if self._tokens is None:
            self._tokens = model.tokenize(self.texts.texts)
        embedded = self._frozen(model, self._tokens)
        unit = F.normalize(embedded.to(torch.promote_types(embedded.dtype, torch.float32)), dim=1)
        counts = torch.tensor([len(own) for own in self.texts.sentences], device=unit.device)
        owner = torch.arange(len(counts), device=unit.device).repeat_interleave(counts, output_size=len(unit))
        return F.normalize(unit.new_zeros(len(counts), unit.shape[1]).index_add(0, owner, unit), dim=1)

    def checked(self, label: Tensor) -> Tensor:
        """The labels, each of which has a name: `label` `[B]` int64.

        Raises:
            UserError: one has none; a negative label is that of a picture whose class is not known.
        """
        count = len(self.texts or ())
        if (unknown := label[(label < 0) | (label >= count)]).numel():
            raise UserError(
                f"a picture has the label {int(unknown[0])}, and there are names for 0 to {count - 1}: leave such "
                "pictures out, or set method.classes"
            )
        return label
