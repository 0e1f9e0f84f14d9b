"""Zero-shot classification: an image belongs to the class whose name, put into sentences, is nearest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.embedding.embed_source import embed, embed_texts
from nearfar.embedding.embeddings import Embeddings, by_name
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.ranks import Ranks, rank
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.prompting.templates import templates as sentences


def zero_shot(
    encoder: Any,
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    templates: str | Sequence[str] = "short",
    candidates: Literal["present", "all"] = "present",
    ks: Sequence[int] = (1, 5),
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Top-k accuracy of class names as classifiers.

    Args:
        encoder: embeds the class names, and `source` unless that is embedded already.
        source: data with labels, or its `Embeddings`.
        classes: the name of each label; default: those of the data.
        templates: `"name"`, `"short"` (7 sentences), `"full"` (80), or sentences of your own with `{}` in them.
        candidates: the classes to choose from: those that the data holds images of, or all that have a name.
        ks: the k of the accuracies.
        seed: of the bootstrap over images (whole groups, where the data has them).
        batch_size: for embedding.

    Returns:
        `top1`, `top5`, `mean_per_class` (top-1, every class counts the same; its interval resamples classes), and
        them `by["domain"]`; top-1 `by["class"]`. Images without a label are left out.

    Raises:
        UserError: the data has no labels, or its classes no names.
    """
    data = source if isinstance(source, Embeddings) else embed(encoder, source, batch_size=batch_size, captions=0)
    label, names = labelled(data), list(classes or data.classes or ())
    if not names:
        raise UserError(f"{data.source} names no classes: pass classes=[...], one name a label")
    if int(label.max()) >= len(names):
        raise UserError(f"{data.source} has label {int(label.max())}, but only {len(names)} classes are named")
    kept = (label >= 0).nonzero().flatten()
    ids = label[kept].unique() if candidates == "present" else torch.arange(len(names))
    chosen = [names[i] for i in ids.tolist()]
    prototypes = class_prototypes(encoder, chosen, templates=templates, batch_size=batch_size)
    found = rank(normalize(data.image[kept], dim=1), prototypes, label[kept], ids)
    part = data.select(kept)
    assert part.label is not None
    by = {
        "domain": {
            name: accuracies(found[rows.numpy()], part.label[rows], part.image_group[rows], ks=ks, seed=seed)
            for name, rows in part.parts().items()
        },
        "class": {
            name: {"top1": accuracies(found[rows.numpy()], part.label[rows], None, ks=(1,), seed=seed)["top1"]}
            for name, rows in by_name(part.label, names).items()
        },
    }
    details = {"classes": len(chosen), "candidates": candidates, "templates": list(sentences(templates))}
    return Result(
        "zero_shot",
        accuracies(found, part.label, part.image_group, ks=ks, seed=seed),
        {kind: parts for kind, parts in by.items() if parts},
        details,
    )


def class_prototypes(
    encoder: Any, classes: Sequence[str], *, templates: str | Sequence[str] = "short", batch_size: int = 64
) -> Tensor:
    """One unit vector a class, `[C, D]`: the normalised mean of the normalised embeddings of its sentences."""
    forms = sentences(templates)
    texts = [form.replace("{}", name) for name in classes for form in forms]
    embedded = embed_texts(encoder, texts, batch_size=batch_size)
    return normalize(embedded.view(len(classes), len(forms), -1).mean(dim=1), dim=1)


class ZeroShotClassifier:
    """A classifier made of names, with scikit-learn's verbs: `fit` on class names, `predict` on image embeddings.

    Args:
        encoder: embeds the names.
        templates: as for `zero_shot`.

    Attributes:
        classes_: the names; prototypes_: `[C, D]`, a unit vector for each.

    >>> from nearfar.evaluation import ZeroShotClassifier, embed_images
    >>> classifier = ZeroShotClassifier(encoder).fit(["cat", "dog"])  # doctest: +SKIP
    >>> classifier.predict(embed_images(encoder, ["rex.jpg"]))  # doctest: +SKIP
    array(['dog'], dtype='<U3')
    """

    def __init__(self, encoder: Any, *, templates: str | Sequence[str] = "short") -> None:
        self.encoder, self.templates = encoder, templates

    def fit(self, classes: Sequence[str]) -> ZeroShotClassifier:
        """Embed the class names."""
        if isinstance(classes, str) or not len(classes):
            raise UserError(f"fit takes a list of class names, not {classes!r}")
        self.classes_: NDArray[Any] = np.asarray(list(classes))
        self.prototypes_ = class_prototypes(self.encoder, list(classes), templates=self.templates)
        return self

    def decision_function(self, embeddings: Tensor | ArrayLike) -> NDArray[np.float32]:
        """Cosine of each image with each class, `[N, C]`."""
        if not hasattr(self, "prototypes_"):
            raise UserError("this ZeroShotClassifier has no classes yet: call fit([names]) first")
        images = torch.as_tensor(embeddings, dtype=torch.float32)
        return (normalize(images, dim=-1) @ self.prototypes_.T).numpy()

    def predict(self, embeddings: Tensor | ArrayLike) -> NDArray[Any]:
        """The name of the nearest class for each image, `[N]`."""
        nearest = self.decision_function(embeddings).argmax(axis=1)
        return self.classes_[nearest]

    def predict_proba(self, embeddings: Tensor | ArrayLike, *, temperature: float = 0.01) -> NDArray[np.float32]:
        """Softmax of the cosines over `temperature` (CLIP models end near 0.01), `[N, C]`."""
        return torch.from_numpy(self.decision_function(embeddings) / temperature).softmax(dim=1).numpy()

    def score(self, embeddings: Tensor | ArrayLike, names: ArrayLike) -> float:
        """The share of images whose predicted name is the right one of `names [N]`."""
        return float((self.predict(embeddings) == np.asarray(names)).mean())


def accuracies(
    found: Ranks, label: Tensor, group: Tensor | None, *, ks: Sequence[int] = (1, 5), seed: int = 0
) -> dict[str, Metric]:
    """Top-k accuracies and the mean over classes, from the rank of each image's true class.

    Args:
        found: ranks of n images among the classes.
        label: `[n]`, the true classes.
        group: `[n]`, images resampled together; None: each alone.
        ks: the k; a k that is no smaller than the number of classes is left out.
        seed: of the bootstrap.
    """
    chance, n = found.chance(), len(found)
    count = int(found.candidates[0]) if n else 0
    ks = [k for k in ks if k == 1 or k < count]
    hits = np.stack([found.hit(k) for k in ks], axis=1)
    low, high = mean_interval(hits, cluster=None if group is None else group.numpy(), seed=seed)
    metrics = {
        f"top{k}": Metric(
            float(hits[:, i].mean()), float(low[i]), float(high[i]), float(chance.hit(k).mean()), n, unit="%"
        )
        for i, k in enumerate(ks)
    }
    each = per_class(hits[:, 0], label)
    low, high = mean_interval(each, seed=seed)
    metrics["mean_per_class"] = Metric(
        float(each.mean()), float(low[0]), float(high[0]), 1 / count if count else None, len(each), unit="%"
    )
    return metrics


def per_class(values: NDArray[np.float64], label: Tensor) -> NDArray[np.float64]:
    """The mean of `values [n]` within each class that occurs, in order of the labels.

    >>> per_class(np.array([1.0, 0.0, 1.0]), torch.tensor([4, 4, 7]))
    array([0.5, 1. ])
    """
    _, member, count = np.unique(label.numpy(), return_inverse=True, return_counts=True)
    return np.bincount(member.reshape(-1), values) / count


def labelled(data: Embeddings) -> Tensor:
    """The labels of the data's pictures.

    Raises:
        UserError: it has none.
    """
    data.require("image", by="a classifier of pictures")
    if data.label is None or not bool((data.label >= 0).any()):
        raise UserError(f"{data.source} has no labels: name the column with label=NAME, or use class folders")
    return data.label
