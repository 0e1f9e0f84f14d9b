"""How alike the spaces of a student and of its teacher are, on pictures that neither labels nor training touched.

Distilling for unseen classes (arXiv 2307.03135) measures the coherence of both spaces; these figures are ours.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.evaluation.measures.bootstrap import mean_interval
from nearfar.evaluation.measures.result import Metric, Result
from nearfar.nearest import nearest


def agreement(
    embeddings: Embeddings, *, teacher: str | Path | Embeddings | None = None, k: int = 10, seed: int = 0
) -> Result:
    """How alike a model and its teacher embed the same pictures.

    Args:
        embeddings: of the data by the model.
        teacher: embeddings of the same data by the teacher: a file that `nearfar embed` wrote, or `Embeddings`.
        k: neighbours of each picture.
        seed: of the bootstrap over pictures (whole groups, where the data has them).

    Returns:
        `neighbours`, the share of a picture's k nearest others to the teacher that are among its k nearest to the
        model, with the share that random ones would have for chance; and where both embed in as many numbers, `cosine`
        of both embeddings of a picture, which means something where the model learned the teacher's space.

    Raises:
        UserError: no teacher, one that embedded other records, or fewer than k + 1 pictures.

    >>> pictures = Embeddings(torch.eye(3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    >>> agreement(pictures, teacher=pictures, k=1)["cosine"]
    1.0
    """
    if teacher is None:
        raise UserError(
            "agreement is with a teacher: embed these data with it (nearfar embed TEACHER DATA --out teacher.parquet), "
            "and name the file: --teacher teacher.parquet"
        )
    theirs = teacher if isinstance(teacher, Embeddings) else Embeddings.load(teacher)
    embeddings.require("image", by="agreement")
    theirs.require("image", by="agreement")
    place = {each: row for row, each in enumerate(theirs.index.tolist())}
    rows = [place.get(each, -1) for each in embeddings.index.tolist()]
    if -1 in rows:
        raise UserError(
            f"the teacher embedded {theirs.source}, without the record {int(embeddings.index[rows.index(-1)])} of "
            f"{embeddings.source}: embed the same data with both"
        )
    own, taught, group = embeddings.image.float(), theirs.image[rows].float(), embeddings.image_group.numpy()
    columns = {"neighbours": shared_neighbours(own, taught, k=k)}
    if own.shape[1] == taught.shape[1]:
        columns["cosine"] = teacher_cosines(own, taught)
    metrics = {}
    for name, values in columns.items():
        low, high = mean_interval(values.numpy(), cluster=group, seed=seed)
        chance = k / (len(own) - 1) if name == "neighbours" else None
        unit = "%" if name == "neighbours" else ""
        metrics[name] = Metric(values.mean().item(), float(low[0]), float(high[0]), chance, len(own), unit=unit)
    return Result("agreement", metrics, details={"teacher": theirs.source, "k": k})


def teacher_cosines(student: Tensor, teacher: Tensor) -> Tensor:
    """The cosine of both embeddings of each picture, `[N]`.

    Args:
        student, teacher: `[N, D]`, floating point; row i of both is one picture.

    Raises:
        UserError: shapes that do not pair up.

    >>> teacher_cosines(torch.tensor([[2.0, 0.0], [0.6, 0.8]]), torch.eye(2))
    tensor([1.0000, 0.8000])
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise UserError(
            f"student and teacher must be [N, D] of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    return (normalize(student, dim=1) * normalize(teacher, dim=1)).sum(1)


def shared_neighbours(student: Tensor, teacher: Tensor, *, k: int = 10) -> Tensor:
    """Of each picture's k nearest others to the teacher, the share that are among its k nearest to the student, `[N]`.

    Args:
        student: `[N, D]`, floating point.
        teacher: `[N, E]`, floating point; row i of both is one picture, and the widths may differ.
        k: neighbours, by cosine, fewer than N.

    Raises:
        UserError: different numbers of pictures, or too few of them.

    >>> circle = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]])
    >>> shared_neighbours(circle, circle[:, [1, 0]], k=1)
    tensor([1., 1., 1., 1.])
    """
    if len(student) != len(teacher):
        raise UserError(f"student and teacher must embed the same pictures, got {len(student)} and {len(teacher)}")
    if not 0 < k < len(student):
        raise UserError(f"k is {k}: of {len(student)} pictures each has 1 to {len(student) - 1} neighbours")
    own, theirs = _neighbours(student, k), _neighbours(teacher, k)
    return (own[:, :, None] == theirs[:, None]).any(1).float().mean(1)


def _neighbours(rows: Tensor, k: int) -> Tensor:
    """The k nearest others `[N, k]` of each row, itself left out."""
    unit = normalize(rows.float(), dim=1)
    _, places = nearest(unit, unit, k + 1)
    others = places != torch.arange(len(rows))[:, None]
    # Among exact copies a row may not find itself: then the last of the k + 1 goes.
    return places.gather(1, others.int().argsort(dim=1, descending=True, stable=True)[:, :k])
