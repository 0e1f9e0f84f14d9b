"""Hydra (arXiv 2410.18200; SimLAP in its second version): any two classes are a positive pair, each pair in a subspace
of its own, which a gate opens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses import Temperature
from nearfar.losses.functional import gated_pairs
from nearfar.losses.gated_pairs import Form, Reduction, check_form
from nearfar.methods.base import Batch, EmbeddingMethod, decay_groups
from nearfar.methods.class_pairs.class_pair_gate import ClassPairGate, Kind, gate_entropy
from nearfar.methods.class_pairs.class_relations import ClassRelations
from nearfar.methods.class_pairs.pair_rules import PairRule, RuleName, by_wordnet
from nearfar.methods.parts.view_projections import project, projected_dim, spread, together, views_of


class Hydra(EmbeddingMethod):
    """Hydra over any model with `encode_image`; it trains through `project_image` where there is one.

    Every sample needs its class, a number in `label`: the gate knows classes by their numbers. Validate on the same
    classes. Of two views the first are anchors and the second keys; of one view each sample is both. Keys and labels
    are those of all processes, and so are the pairs that the gate's batch norm sees.

    Args:
        model: the image encoder to train; `.model` is what to evaluate and save.
        classes: how many there are; None: as many as the training data name.
        rule: which partner class an anchor gets: "arbitrary" (paper), "identical", "distinct" or "weighted" by how near
            the classes' names are in WordNet; in Python a `PairRule` of your own, too.
        present_only, power, max_distance, wordnet: of the rule (`nearfar.methods.class_pairs.PairRule`); `wordnet` is
            the folder of WordNet's files, None: where the Debian package `wordnet-base` puts them.
        gate: "sigmoid" (paper), "gumbel", "stochastic", or "open": no filter.
        fuse: the gate of the mean of both classes' embeddings (paper); False: the product of both classes' gates.
        gate_width, gate_hidden: of the gate (code: 512 and 1024).
        gate_penalty: weight of the gates' entropy, added to the loss: it pushes them to 0 and 1 (code: 0).
        temperature: where it starts; trained, and kept above 0.01 (code: 0.1, without a bound).
        form, alpha, reduction: of the loss (`nearfar.losses.GatedPairs`).
        symmetric: keys of the first view for anchors of the second, too, and the mean of both (code: no).

    Logs `activation`, how many dimensions a pair has open; `entropy`, ln 2 where gates are undecided and 0 where they
    are open or closed; `scale`, 1 / temperature; `spread`.

    Raises:
        UserError: a setting out of its range; data that name no classes, or fewer than two (with the rule "distinct"
            three, as negatives are of neither class of a pair); in training, a batch that cannot hold so many; a sample
            without a class.

    Example:
        >>> class Identity(nn.Module):
        ...     embed_dim = 3
        ...     def encode_image(self, pixels): return pixels
        >>> label = torch.tensor([0, 0, 1, 1, 2, 2])
        >>> method = Hydra(Identity(), classes=3, rule="identical", gate="open", temperature=1.0)
        >>> round(method({"views": torch.eye(3)[label].expand(2, 6, 3), "label": label})["loss"].item(), 4)
        0.9048
    """

    views = "hydra"
    n_views = 2
    validation_views = None
    reads = ("label",)

    def __init__(
        self,
        model: nn.Module,
        *,
        classes: int | None = None,
        rule: RuleName | PairRule = "arbitrary",
        present_only: bool = False,
        power: float = 1.0,
        max_distance: int | None = None,
        wordnet: str | None = None,
        gate: Kind = "sigmoid",
        fuse: bool = True,
        gate_width: int = 512,
        gate_hidden: int = 1024,
        gate_penalty: float = 0.0,
        temperature: float = 0.1,
        form: Form = "subspace",
        alpha: float = 0.0,
        reduction: Reduction = "row",
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.symmetric, self.gate_penalty = model, symmetric, gate_penalty
        check_form(form, alpha, reduction)
        self.temperature, self.form, self.reduction = Temperature(temperature), form, reduction
        self.alpha = nn.Parameter(torch.tensor(float(alpha))) if alpha else None
        self._gate: dict[str, Any] = {
            "dim": projected_dim(model),
            "kind": gate,
            "fuse": fuse,
            "width": gate_width,
            "hidden": gate_hidden,
        }
        made = ClassPairGate(1 if classes is None else classes, **self._gate)  # which refuses what does not fit
        self.gate = None if classes is None else made
        self._by_wordnet = partial(by_wordnet, folder=wordnet, power=power, max_distance=max_distance)
        self.rule = None
        if rule != "weighted":
            self.rule = rule if isinstance(rule, PairRule) else PairRule(rule, present_only=present_only)
        self.names: list[str] | None = None
        if classes is not None:
            self._check_classes(classes, f"classes={classes}")

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        self.names = data.classes
        if self.gate is None:
            if data.classes is None:
                raise UserError(
                    f"Hydra needs the classes of the data, and {data.name} names none: say how many there are by "
                    "classes=... (method.classes), or take data with classes"
                )
            self._check_classes(len(data.classes), f"{data.name} names {len(data.classes)} ({', '.join(data.classes)})")
            device = next((p.device for p in self.model.parameters()), None)
            self.gate = ClassPairGate(len(data.classes), **self._gate).to(device)
        if self.rule is None:
            self.rule = self._by_wordnet(data.classes)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        large, _ = views_of(batch, least=1)
        return {f"view_{i}": z for i, z in enumerate(together(partial(project, self.model), large[:2]))}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        label = batch["label"]
        if self.gate is None or self.rule is None:
            raise UserError("Hydra does not know its classes yet: give it classes=..., or call begin(data) first")
        self.gate.check_labels(label)
        if self.training and len(label) < self._least:
            raise UserError(
                f"a batch of {len(label)} cannot hold the {self._least} classes that Hydra needs, and its loss is then "
                "0: raise the batch size (training.batch_size)"
            )
        partner = self.rule(label, classes=self.gate.classes)
        gate, chance = self.gate.draw(label, partner)
        z = list(embeddings.values())
        directions = [(z[0], z[-1]), (z[-1], z[0])][: 2 if self.symmetric and len(z) > 1 else 1]
        losses = [
            gated_pairs(
                anchors,
                keys,
                gate,
                label,
                partner,
                label,  # also where views are exchanged: a view has its sample's class
                temperature=self.temperature,
                form=self.form,
                alpha=0.0 if self.alpha is None else self.alpha,
                reduction=self.reduction,
                exclude_self=len(z) == 1,
            )
            for anchors, keys in directions
        ]
        loss = torch.stack(losses).mean()
        entropy = gate_entropy(chance)
        return {
            "loss": loss + self.gate_penalty * entropy if self.gate_penalty else loss,
            "activation": gate.detach().sum(1).mean(),
            "entropy": entropy.detach(),
            "scale": self.temperature.scale().detach(),
            "spread": spread(z[0]),
        }

    @property
    def _least(self) -> int:
        """Classes without which no anchor has a negative, as the loss is then 0."""
        return 3 if isinstance(self.rule, PairRule) and self.rule.name == "distinct" else 2

    def _check_classes(self, count: int, where: str) -> None:
        if count < self._least:
            remedy = ', or another rule (method.rule) than "distinct"' if count == 2 else ""
            raise UserError(
                f"Hydra needs {self._least} classes at least, as negatives are of none of a pair's, and {where}: take "
                f"data with more{remedy}"
            )

    def param_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Decay would draw gates to 0.5 and classes to one another, so that it spares the gate."""
        of_gate = list(self.gate.parameters()) if self.gate is not None else []
        names = {id(p) for p in of_gate}
        others = [p for p in self.parameters() if id(p) not in names]
        return [*decay_groups(others, weight_decay), {"params": of_gate, "weight_decay": 0.0}]

    def leave(self, folder: Path) -> None:
        if self.gate is None or self.gate.kind == "open" or self.gate.classes < 2:
            return
        self.gate.save(folder / "class_pair_gate.safetensors")
        ClassRelations.of(self.gate, self.names).write(folder / "class_relations.json")
