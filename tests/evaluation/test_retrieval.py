import numpy as np
import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation import Embeddings, embed, retrieval
from nearfar.evaluation.measures.retrieval_ranks import rank_scores
from nearfar.evaluation.protocols.retrieval import rank_metrics


def random_data(n=60, each=3, dim=12, seed=0, **columns):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(n, dim, generator=generator)
    owner = torch.arange(n).repeat_interleave(each)
    text = image[owner] + 1.5 * torch.randn(n * each, dim, generator=generator)
    return Embeddings(image, text, owner, **columns)


def slow_recalls(data, k):
    """Recall at k by the book, in float64: is a right one among the first k of the sorted list?"""
    image, text = (torch.nn.functional.normalize(x.double(), dim=1) for x in (data.image, data.text))
    scores = (text @ image.T).numpy()
    group, text_group = data.image_group.numpy(), data.text_group.numpy()
    to_image = [text_group[i] in group[np.argsort(-row)[:k]] for i, row in enumerate(scores)]
    to_text = [group[i] in text_group[np.argsort(-row)[:k]] for i, row in enumerate(scores.T)]
    return np.mean(to_image), np.mean(to_text)


@pytest.mark.parametrize("columns", [{}, {"group": torch.arange(60) // 4}])
def test_recall_by_brute_force(columns):
    data = random_data(**columns)
    result = retrieval(data, tile=17)
    for k in (1, 5, 10):
        to_image, to_text = slow_recalls(data, k)
        assert result[f"text_to_image_R@{k}"] == pytest.approx(to_image)
        assert result[f"image_to_text_R@{k}"] == pytest.approx(to_text)
    assert 0 < result["text_to_image_R@1"] < result["text_to_image_R@10"] < 1
    assert result.metrics["text_to_image_R@1"].n == 180
    assert result.metrics["image_to_text_R@1"].n == 60


def test_identity_gives_a_hundred_and_a_constant_changes_nothing():
    groups = torch.arange(8)
    noisy = torch.eye(8).double() + 2 * torch.rand(8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert rank_metrics(rank_scores(torch.eye(8), groups, groups), groups)["R@1"].value == 1
    plain = rank_metrics(rank_scores(noisy, groups, groups), groups)
    shifted = rank_metrics(rank_scores(noisy + 4, groups, groups), groups)
    assert plain == shifted
    assert plain["R@1"].value < 1


def test_any_of_five_captions_is_a_hit():
    """Each image is near to one of its five captions only, its fourth."""
    image = torch.eye(6)
    owner = torch.arange(6).repeat_interleave(5)
    text = torch.roll(torch.eye(6), 1, dims=0)[owner] * 0.1 + 0.01
    text[3::5] = image
    result = retrieval(Embeddings(image, text, owner))
    assert result["image_to_text_R@1"] == 1
    assert result["text_to_image_R@1"] == pytest.approx(1 / 5)


def test_collapse_is_exactly_chance():
    data = Embeddings(torch.ones(12, 4), torch.ones(36, 4), torch.arange(36) % 12)
    for name, metric in retrieval(data).metrics.items():
        assert metric.value == pytest.approx(metric.chance), name


def test_chance_by_hand():
    metrics = retrieval(random_data(n=50, each=5)).metrics
    assert metrics["text_to_image_R@10"].chance == pytest.approx(10 / 50)
    assert metrics["image_to_text_R@1"].chance == pytest.approx(5 / 250)
    missed = np.prod([(245 - i) / (250 - i) for i in range(10)])
    assert metrics["image_to_text_R@10"].chance == pytest.approx(1 - missed)
    assert metrics["text_to_image_MRR"].chance == pytest.approx(np.mean(1 / np.arange(1, 51)))


def test_domains_are_measured_among_their_own(encoder, colours):
    data = embed(encoder, colours)
    result = retrieval(data)
    assert set(result.by["domain"]) == {"plain", "striped"}
    plain = result.by["domain"]["plain"]
    assert plain["text_to_image_R@1"].chance == pytest.approx(1 / 6)
    assert plain["text_to_image_R@1"].value == 1
    alone = retrieval(data.select(torch.arange(6)))
    assert plain == alone.metrics
    # Both drawings of a colour are right, and the captions that they share count once.
    assert result.metrics["text_to_image_R@1"].n == 12
    assert result.metrics["text_to_image_R@1"].chance == pytest.approx(2 / 12)


def test_intervals_hold_the_value_and_follow_the_seed():
    data = random_data()
    first, again, other = (retrieval(data, seed=seed).metrics for seed in (0, 0, 1))
    assert first == again != other
    for metric in first.values():
        assert metric.low <= metric.value <= metric.high
        assert metric.low < metric.high


def test_images_with_the_same_captions_are_one_answer():
    """Two red cars with the same words: neither can be told from the other by them, so that either is right."""
    image = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.1]])
    words = ["a red car", "a car", "a car", "a red car", "a cat", "a cat"]
    owner = torch.tensor([0, 0, 1, 1, 2, 3])
    text = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 1, 0]])[torch.tensor([0, 1, 1, 0, 2, 2])]
    data = Embeddings(image, text, owner, captions=words)
    assert data.match_group.tolist() == [0, 0, 2, 2]
    result = retrieval(data)
    assert result["text_to_image_R@1"] == result["image_to_text_R@1"] == 1
    assert result.metrics["text_to_image_R@1"].n == 3  # the same words for the same pictures are one query
    assert result.metrics["text_to_image_R@1"].chance == pytest.approx(2 / 4)
    assert result.details["groups"] == 2
    # Sharing one of several captions does not make two pictures one; given groups are taken as they are.
    assert Embeddings(image, text, owner, captions=[*words[:3], "a van", *words[4:]]).match_group.tolist() == [
        0,
        1,
        2,
        2,
    ]
    assert Embeddings(image, text, owner, captions=words, group=torch.arange(4)).match_group.tolist() == [0, 1, 2, 3]
    # Pictures are drawn one by one all the same: 40 pictures of two classes are more than two queries.
    many = Embeddings(
        torch.eye(2).repeat_interleave(20, 0) + 0.6 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0)),
        torch.eye(2).repeat_interleave(20, 0),
        torch.arange(40),
        captions=["cat"] * 20 + ["dog"] * 20,
    )
    one_by_one = retrieval(many).metrics["image_to_text_R@1"]
    assert one_by_one.n == 40
    assert (one_by_one.low, one_by_one.high) != (0, 1)


def test_images_without_captions_are_no_queries():
    data = Embeddings(torch.eye(4), torch.eye(4)[:2], torch.arange(2))
    metrics = retrieval(data).metrics
    assert metrics["image_to_text_R@1"].n == 2
    assert metrics["image_to_text_R@1"].value == 1


def test_from_encoder_and_source(encoder, colours):
    assert retrieval(encoder, colours).metrics == retrieval(embed(encoder, colours)).metrics


def test_no_captions_is_told():
    with pytest.raises(UserError, match="captions"):
        retrieval(Embeddings(torch.eye(2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)))
