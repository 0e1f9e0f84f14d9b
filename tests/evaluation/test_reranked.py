"""Retrieval in two stages: spec'd by what the second look may and may not change."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from nearfar.errors import UserError
from nearfar.evaluation import Embeddings, reranked_retrieval, retrieval
from nearfar.models import Reranker


class Looks:
    def __init__(self, scores):
        self.scores, self.rows_read = scores, []

    def image_to_text(self, image, text):
        self.rows_read.append((image, text))
        return self.scores[image, text]

    def text_to_image(self, text, image):
        return self.image_to_text(image, text)


@pytest.fixture
def data():
    torch.manual_seed(0)
    image = normalize(torch.randn(20, 4), dim=1)
    text = normalize(image.repeat_interleave(2, 0) + 0.8 * torch.randn(40, 4), dim=1)
    captions = [f"caption {i // 3}" for i in range(40)]  # some words twice for one image: one query
    return Embeddings(image, text, torch.arange(20).repeat_interleave(2), captions=captions)


def values(result):
    return {name: metric.value for name, metric in result.metrics.items()}


def test_the_whole_gallery_by_the_first_stages_score_is_its_ranking(data):
    second = Reranker(Looks(data.image @ data.text.T), k=40)
    reranked = reranked_retrieval(data, second, batch_size=7)
    assert values(reranked) == pytest.approx(values(retrieval(data)))
    texts = len(data.distinct_texts())
    assert second.pairs == 2 * 20 * texts
    assert reranked.details["distinct_captions"] == texts


def test_each_domain_among_its_own_candidates(data):
    domain = torch.arange(20) % 2
    data = replace(data, domain=domain, domains=["ink", "oil"])
    looks = Looks(data.image @ data.text.T)
    reranked = reranked_retrieval(data, Reranker(looks, k=40))
    expected = retrieval(data)
    assert set(reranked.by["domain"]) == {"ink", "oil"}
    for name, metrics in reranked.by["domain"].items():
        plain = expected.by["domain"][name]
        assert {m: v.value for m, v in metrics.items()} == pytest.approx({m: v.value for m, v in plain.items()})


def test_a_perfect_second_look_puts_right_what_the_first_kept(data):
    right = (data.image_of_text[None] == torch.arange(20)[:, None]).float()
    first, reranked = retrieval(data), reranked_retrieval(data, Reranker(Looks(right), k=5))
    for direction in ("text_to_image", "image_to_text"):
        assert reranked[f"{direction}_R@1"] == pytest.approx(first[f"{direction}_R@5"])
        assert reranked[f"{direction}_R@10"] == pytest.approx(first[f"{direction}_R@10"]), (
            "none beyond k moves up or down"
        )
    assert reranked["text_to_image_R@1"] > first["text_to_image_R@1"]


def test_it_is_asked_for_the_first_k_only(data):
    looks = Looks(torch.zeros(20, 40))
    reranked_retrieval(data, Reranker(looks, k=3))
    allowed = set(data.distinct_texts().tolist())
    assert {t for _, text in looks.rows_read for t in text.tolist()} <= allowed
    assert sum(len(image) for image, _ in looks.rows_read) == 3 * (20 + len(allowed))


def test_needs_captions():
    eye = torch.eye(3)
    with pytest.raises(UserError, match="no"):
        reranked_retrieval(Embeddings(eye, eye[:0], torch.arange(0)), lambda s, *_: s)
