"""How alike two spaces are: by hand, by the slow way, and what does not count."""

import pytest
import torch
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.evaluation import Embeddings
from nearfar.evaluation.measures.teacher_agreement import agreement, shared_neighbours, teacher_cosines


def rows(seed, count=30, width=6):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_cosines_of_pairs():
    a, b = rows(0), rows(1)
    torch.testing.assert_close(teacher_cosines(3 * a, b), F.cosine_similarity(a, b))
    torch.testing.assert_close(teacher_cosines(a, a), torch.ones(30))
    with pytest.raises(UserError, match="of one shape"):
        teacher_cosines(a, b[:3])


@pytest.mark.parametrize("k", [1, 4, 29])
def test_shared_neighbours_by_the_slow_way(k):
    a, b = rows(0), rows(1, width=4)

    def near(x, i):
        cosines = F.cosine_similarity(x[i][None], x)
        return set(sorted((j for j in range(30) if j != i), key=lambda j: -cosines[j].item())[:k])

    expected = [len(near(a, i) & near(b, i)) / k for i in range(30)]
    torch.testing.assert_close(shared_neighbours(a, b, k=k), torch.tensor(expected))


def test_a_turned_space_has_the_same_neighbours_and_copies_are_neighbours_too():
    a = rows(0)
    turn = torch.linalg.qr(rows(2, 6))[0]
    torch.testing.assert_close(shared_neighbours(a, 2 * a @ turn, k=5), torch.ones(30))
    copies = torch.cat([a[:1].expand(5, -1), a[1:]])
    assert shared_neighbours(copies, copies, k=2).min() == 1
    for k in (0, 30):
        with pytest.raises(UserError, match=f"k is {k}: of 30 pictures"):
            shared_neighbours(a, a, k=k)
    with pytest.raises(UserError, match="the same pictures, got 30 and 3"):
        shared_neighbours(a, a[:3])


def embedded(vectors, order=None, **more):
    order = torch.arange(len(vectors)) if order is None else order
    nothing = torch.zeros(0, vectors.shape[1]), torch.zeros(0, dtype=torch.long)
    return Embeddings(F.normalize(vectors[order], dim=1), *nothing, index=order + 100, **more)


def test_records_are_matched_by_their_ids():
    a, b = rows(0), rows(1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    result = agreement(embedded(a), teacher=embedded(b, order), k=4)
    assert result["cosine"] == pytest.approx(F.cosine_similarity(a, b).mean().item(), abs=1e-6)
    assert result["neighbours"] == pytest.approx(shared_neighbours(a, b, k=4).mean().item())
    assert result.metrics["neighbours"].chance == pytest.approx(4 / 29)
    assert result.metrics["cosine"].low < result["cosine"] < result.metrics["cosine"].high
    assert list(agreement(embedded(a), teacher=embedded(rows(2, width=4)), k=4).metrics) == ["neighbours"]


def test_groups_are_resampled_together():
    a, b = rows(0), rows(1)
    alone, joined = (
        agreement(embedded(a, group=group), teacher=embedded(b), k=4).metrics["cosine"]
        for group in (torch.arange(30), torch.arange(30) // 15)
    )
    assert alone.value == joined.value
    assert (alone.low, alone.high) != (joined.low, joined.high)


def test_the_teacher_may_be_a_file_and_must_know_the_records(tmp_path):
    a, b = rows(0), rows(1)
    path = embedded(b).save(tmp_path / "teacher.parquet")
    assert agreement(embedded(a), teacher=path)["cosine"] == pytest.approx(
        agreement(embedded(a), teacher=embedded(b))["cosine"], abs=1e-6
    )
    with pytest.raises(UserError, match="agreement is with a teacher: embed these data with it"):
        agreement(embedded(a))
    with pytest.raises(UserError, match="without the record 129 of data: embed the same data with both"):
        agreement(embedded(a), teacher=embedded(b[:29]))
