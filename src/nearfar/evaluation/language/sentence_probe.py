"""A linear probe of sentences: what a logistic regression reads from frozen embeddings, as transfer tasks are reported
(SentEval, arXiv 1803.05449)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nearfar import console
from nearfar.classifiers.linear import CS, LinearProbe, folds
from nearfar.data.sources.open_source import open_source
from nearfar.data.tables.senteval_files import is_senteval
from nearfar.data.tables.table_files import READERS
from nearfar.embedding.embed_source import embed_texts
from nearfar.errors import UserError, at_least
from nearfar.evaluation.language.labelled_texts import LabelledTexts, labelled_texts
from nearfar.evaluation.measures.bootstrap import clusters, mean_interval, resample
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.evaluation.protocols.picture_batches import as_source
from nearfar.evaluation.protocols.zero_shot_accuracy import per_class

EXAMPLES = 12
"""Wrong sentences that are kept for the report."""


def sentence_probe(
    encoder: Any,
    source: Any = None,
    *,
    sets: Sequence[str] | None = None,
    train: Any = None,
    outer_folds: int = 10,
    inner_folds: int = 5,
    cs: Sequence[float] = CS,
    seed: int = 0,
    batch_size: int = 64,
) -> Result:
    """Logistic regression (scikit-learn's, L-BFGS) on the frozen embeddings of labelled sentences; of pairs, on |u - v|
    and u * v, as SentEval has it.

    The strength of the penalty is chosen by cross-validation inside the sentences that are fitted, never on those that
    are measured. Equal texts, and records of one `group`, are never on both sides.

    Args:
        encoder: anything with `encode_text` and `tokenize`.
        source: one set: records with `text` (of several the first), `label`, and `text2` where pairs are to be
            classified.
        sets: several sets in its place: each a folder of a SentEval task, a table with texts and labels, or a folder
            that holds such.
        train: labelled texts to fit on. Default: the training split that the source itself names (SentEval's SST2,
            TREC and MRPC); without one, cross-validation.
        outer_folds: folds of that cross-validation: each is measured as fitted on the others.
        inner_folds: folds inside what is fitted, to choose the strength of the penalty.
        cs: inverse strengths to choose from.
        seed: of the folds and of the bootstrap.
        batch_size: texts at a time.

    Returns:
        `accuracy`, with the commonest class's as chance; `mean_per_class`; with two classes `f1` of the second, as MRPC
        is reported, beside that of answering it always. Each class's accuracy is `by["class"]`. With several `sets`
        their averages, and each in `by["set"]`. Intervals are over the measured texts, with the probe as it is.

    Raises:
        UserError: scikit-learn is missing, there are no labelled texts, or none of a class can be held out.

    >>> from nearfar.data.sources.source import Records
    >>> class Letters:
    ...     def tokenize(self, texts):
    ...         return torch.tensor([[float(text.count(letter)) for letter in "abcd"] for text in texts])
    ...     def encode_text(self, tokens):
    ...         return tokens
    >>> words = [(each * 3 + rest, "ab".index(each)) for each in "ab" for rest in ("c", "d", "cc", "dd", "cd", "ccd")]
    >>> data = Records([{"text": text, "label": label} for text, label in words], classes=["a", "b"])
    >>> sentence_probe(Letters(), data, outer_folds=3, cs=[10.0])["accuracy"]
    1.0
    """
    at_least(2, outer_folds=outer_folds, inner_folds=inner_folds)
    probe = _Probe(encoder, LinearProbe(cs, inner_folds=inner_folds, seed=seed), outer_folds, seed, batch_size)
    if sets is None:
        if source is None:
            raise UserError("sentence_probe needs a source of labelled texts, or sets=[...]")
        return probe.measure(source, train)
    results: dict[str, Result] = {}
    for place in [each for name in ([sets] if isinstance(sets, str) else sets) for each in _places(name)]:
        name = Path(place).name
        results[name if name not in results else place] = probe.measure(open_source(place), train)
    if len(results) == 1:
        return results.popitem()[1]
    shared = [name for name in ("accuracy", "mean_per_class") if all(name in each.metrics for each in results.values())]
    average = {name: _mean([each.metrics[name] for each in results.values()]) for name in shared}
    figures = {name: each.metrics for name, each in results.items()}
    return Result("sentence_probe", average, {"set": figures}, {name: each.details for name, each in results.items()})


def pair_features(u: Tensor, v: Tensor) -> Tensor:
    """`[N, 2 D]`: |u - v| and u * v of unit vectors `[N, D]`, floating point, as SentEval classifies pairs. Products of
    unit vectors are smaller the wider they are: times the root of D, so that one penalty fits both halves.

    >>> pair_features(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0, 0.0]])).tolist()
    [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    """
    return torch.cat([(u - v).abs(), u * v * u.shape[1] ** 0.5], dim=1)


@dataclass(frozen=True)
class _Probe:
    """An encoder and how its embeddings are probed."""

    encoder: Any
    classifier: LinearProbe
    outer_folds: int
    seed: int
    batch_size: int

    def measure(self, source: Any, train: Any) -> Result:
        """The result of one set."""
        name = str(getattr(source, "name", "the data"))
        own = source.training() if train is None and hasattr(source, "training") else train
        test = labelled_texts(source)
        fit = test if own is None else labelled_texts(as_source(own), pairs=test.second is not None)
        same: set[tuple[str, ...]] = set() if own is None else set(test.keys)
        apart = torch.tensor([key not in same for key in fit.keys])
        fit = fit.select(apart.nonzero().flatten())
        if len(set(fit.label)) < 2:
            raise UserError(f"{name}: a probe needs texts of two classes to fit on, and has {len(set(fit.label))}")
        classes = sorted({*fit.label, *test.label})
        label, x = _numbers(test.label, classes), self._features(test)
        fit_label, fit_x = (label, x) if own is None else (_numbers(fit.label, classes), self._features(fit))
        # The fold of each measured text: -1 is in none. A training set of its own is one fold, with nothing left out.
        fold = self._folds(label, test.group, name) if own is None else torch.zeros_like(label)
        predicted, common = torch.full_like(label, -1), torch.full_like(label, -1)
        chosen: list[float] = []
        for each in console.track(fold[fold >= 0].unique().tolist(), f"probing {name}"):
            inside = fold != each if own is None else torch.ones_like(fit_label, dtype=torch.bool)
            probe = self.classifier.fit(
                fit_x[inside], fit_label[inside].numpy(), classes=np.arange(len(classes)), group=fit.group[inside]
            )
            predicted[fold == each] = torch.from_numpy(probe.predict(x[fold == each]))
            common[fold == each] = fit_label[inside].bincount().argmax()
            chosen.append(probe.C_)
        kept = (fold >= 0).nonzero().flatten()
        unused = {
            "in no fold": len(test) - len(kept),
            "of training that stand in the test set": int((~apart).sum()),
        }
        details = {
            "texts": len(kept),
            "train": len(fit),
            "classes": classes,
            "pairs": test.second is not None,
            "folds": len(chosen) if own is None else 0,
            "inner_folds": self.classifier.inner_folds,
            "C": chosen,
            "left_out": {what: count for what, count in unused.items() if count},
            "unlabelled": test.skipped,
            "failures": _failures(test, classes, predicted, kept),
        }
        return _result(label[kept], predicted[kept], common[kept], test.group[kept], classes, self.seed, details)

    def _folds(self, label: Tensor, group: Tensor, name: str) -> Tensor:
        fold = folds(label, self.outer_folds, self.seed, group=group)
        if not bool((fold >= 0).any()):
            raise UserError(f"no class of {name} has two different texts, so none can be held out: pass train=...")
        return fold

    def _features(self, data: LabelledTexts) -> Tensor:
        texts = list(dict.fromkeys([*data.first, *(data.second or ())]))
        place = {text: number for number, text in enumerate(texts)}
        embedded = embed_texts(self.encoder, texts, batch_size=self.batch_size)
        u = embedded[[place[text] for text in data.first]]
        return u if data.second is None else pair_features(u, embedded[[place[text] for text in data.second]])


def _result(
    label: Tensor,
    predicted: Tensor,
    common: Tensor,
    group: Tensor,
    classes: Sequence[str],
    seed: int,
    details: dict[str, Any],
) -> Result:
    """Figures of the predictions `[N]` of classes `[N]`, beside those of the commonest class, `common` `[N]`."""
    hit = (predicted == label).double().numpy()
    low, high = mean_interval(hit, cluster=group.numpy(), seed=seed)
    chance = float((common == label).double().mean())
    each = per_class(hit, label)
    bottom, top = mean_interval(each, seed=seed)
    metrics = {
        "accuracy": Metric(float(hit.mean()), float(low[0]), float(high[0]), chance, len(hit), unit="%"),
        "mean_per_class": Metric(
            float(each.mean()), float(bottom[0]), float(top[0]), 1 / len(classes), len(each), unit="%"
        ),
    }
    if len(classes) == 2:
        metrics["f1"] = _f1(label.numpy(), predicted.numpy(), group.numpy(), seed)
    by = {
        classes[number]: {"accuracy": Metric(float(value), n=int((label == number).sum()), unit="%")}
        for number, value in zip(label.unique().tolist(), each, strict=True)
    }
    return Result("sentence_probe", metrics, {"class": by}, details)


def _f1(label: NDArray[np.int64], predicted: NDArray[np.int64], group: NDArray[np.int64], seed: int) -> Metric:
    """F1 of the second class; chance is that of answering it always."""
    counts = np.stack([(label == 1) & (predicted == 1), label == 1, predicted == 1], axis=1).astype(float)
    member, count = clusters(group, len(label))
    sums = np.stack([np.bincount(member, column, count) for column in counts.T], axis=1)

    def f1(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        return 2 * totals[..., 0] / np.maximum(totals[..., 1] + totals[..., 2], 1)

    samples = np.concatenate([f1(weights @ sums) for weights in resample(count, 1000, seed)])
    low, high = np.percentile(samples, [2.5, 97.5])
    share = float((label == 1).mean())
    return Metric(float(f1(sums.sum(0))), float(low), float(high), 2 * share / (1 + share), len(label), unit="%")


def _failures(data: LabelledTexts, classes: Sequence[str], predicted: Tensor, kept: Tensor) -> list[dict[str, str]]:
    """The first sentences that were put into a wrong class."""
    wrong = [row for row in kept.tolist() if classes[int(predicted[row])] != data.label[row]][:EXAMPLES]
    second = data.second
    return [
        {
            "text": data.first[row] if second is None else f"{data.first[row]} / {second[row]}",
            "label": data.label[row],
            "predicted": classes[int(predicted[row])],
        }
        for row in wrong
    ]


def _numbers(label: Sequence[str], classes: Sequence[str]) -> Tensor:
    place = {name: number for number, name in enumerate(classes)}
    return torch.tensor([place[name] for name in label])


def _places(name: str) -> list[str]:
    """The sets in a folder that holds several; else the place itself."""
    folder = Path(name)
    if not folder.is_dir() or is_senteval(folder):
        return [name]
    inside = sorted(each for each in folder.iterdir() if is_senteval(each) or each.suffix.lower() in READERS)
    if not inside:
        raise UserError(f"{name} holds no labelled texts: folders of SentEval's tasks, or tables of texts and labels")
    return [str(each) for each in inside]


def _mean(metrics: Sequence[Metric]) -> Metric:
    chance = [metric.chance for metric in metrics if metric.chance is not None]
    value = float(np.mean([metric.value for metric in metrics]))
    return Metric(value, chance=float(np.mean(chance)), n=sum(metric.n for metric in metrics), unit="%")
