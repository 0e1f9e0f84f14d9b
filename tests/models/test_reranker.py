from __future__ import annotations

import pytest
import torch

from nearfar.errors import UserError
from nearfar.models import MatchScorer, Reranker, rerank


def test_whole_gallery_with_the_first_stages_scores_is_its_ranking():
    similarity = torch.randn(5, 7)
    result = rerank(similarity, lambda query, item: similarity[query, item], k=7, batch_size=3)
    assert torch.equal(result.index, similarity.argsort(dim=1, descending=True))
    assert torch.equal(result.matrix(similarity).argsort(1, descending=True), similarity.argsort(1, descending=True))
    assert result.pairs == 35


def test_outside_the_top_k_never_outranks_inside():
    similarity, second = torch.randn(6, 9), torch.randn(6, 9) * 100
    result = rerank(similarity, lambda query, item: second[query, item], k=3)
    ranking = result.matrix(similarity).argsort(dim=1, descending=True)
    for row in range(6):
        kept = set(similarity[row].topk(3).indices.tolist())
        assert set(ranking[row, :3].tolist()) == kept
        assert ranking[row, :3].tolist() == sorted(kept, key=lambda item: -second[row, item])
        rest = [item for item in similarity[row].argsort(descending=True).tolist() if item not in kept]
        assert ranking[row, 3:].tolist() == rest


def test_k_beyond_the_gallery_and_batches_of_pairs():
    depths: list[int] = []

    def score(query, item):
        depths.append(len(query))
        return item.float()

    result = rerank(torch.randn(2, 3), score, k=10, batch_size=4)
    assert result.index.tolist() == [[2, 1, 0]] * 2
    assert depths == [4, 2]


def test_no_queries_and_bad_settings():
    assert rerank(torch.empty(0, 4), lambda query, item: item.float(), k=2).index.shape == (0, 2)
    with pytest.raises(UserError, match="at least 1"):
        rerank(torch.ones(1, 1), lambda query, item: item, k=0)


class Looks:
    """A stand-in for `MatchScorer` whose scores are those of a matrix, images in rows."""

    def __init__(self, scores):
        self.scores = scores

    def image_to_text(self, image, text):
        return self.scores[image, text]

    def text_to_image(self, text, image):
        return self.scores[image, text]


def test_reranker_asks_for_rows_of_the_scorer_and_counts():
    scores = torch.randn(5, 8)
    reranker = Reranker(Looks(scores), k=2, batch_size=3)
    texts, images = torch.tensor([7, 1]), torch.tensor([0, 2, 4])
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.9, 0.8]])
    ranked = reranker(similarity, texts, images, "text_to_image")
    inside = torch.tensor([[0, 1], [1, 2]])
    torch.testing.assert_close(ranked.gather(1, inside), scores[images[inside], texts[:, None]])
    assert (ranked.argmin(1) == torch.tensor([2, 0])).all()
    assert reranker.pairs == 4
    assert "4 pairs scored" in reranker.cost
    with pytest.raises(UserError, match="at least 1"):
        Reranker(Looks(scores), k=0)


def test_only_a_fusion_model_looks_twice(model):
    with pytest.raises(UserError, match=r"DualEncoder: train one with the method albef"):
        MatchScorer.of(model, [], ["a fox"])
