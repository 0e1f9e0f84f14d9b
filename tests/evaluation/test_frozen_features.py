"""Probes on frozen features: a vote worked out by hand, and a backbone with batch norm that no probe moves."""

import copy
import math

import pytest
import torch
from PIL import Image

from nearfar.classifiers.k_nearest import KNearest
from nearfar.data import Records
from nearfar.evaluation import Embeddings, evaluate, knn
from nearfar.models import image_encoder


def bank():
    """Cosines 0.9 to class A, twice 0.8 to class B, of the query (1, 0)."""
    rows = torch.tensor([[c, math.sqrt(1 - c * c)] for c in (0.9, 0.8, 0.8)])
    rows[2, 1] *= -1
    return rows, torch.tensor([0, 1, 1])


@pytest.mark.parametrize(("temperature", "share", "winner"), [(0.07, 0.6760, 0), (0.1, 0.5761, 0), (0.2, 0.4519, 1)])
def test_votes_by_hand(temperature, share, winner):
    classifier = KNearest(3, temperature=temperature).fit(*bank())
    votes = classifier.scores(torch.tensor([[1.0, 0.0]]))
    shares = votes / votes.sum(1, keepdim=True)
    assert shares[0, 0].item() == pytest.approx(share, abs=1e-4)
    assert shares.sum().item() == pytest.approx(1)
    assert classifier.predict(torch.tensor([[1.0, 0.0]])).tolist() == [winner]


def test_where_the_vote_turns():
    """exp(0.1 / T) = 2."""
    turn = 0.1 / math.log(2)
    assert turn == pytest.approx(0.144270, abs=1e-6)
    for temperature, winner in ((turn - 1e-3, 0), (turn + 1e-3, 1)):
        classifier = KNearest(3, temperature=temperature).fit(*bank())
        assert classifier.predict(torch.tensor([[1.0, 0.0]])).tolist() == [winner]


def test_the_protocol_says_its_settings_and_cuts_k():
    rows, label = bank()
    train, test = (Embeddings(x, x[:0], torch.arange(0), label=y) for x, y in ((rows, label), (rows[:1], label[:1])))
    details = knn(test, train, k=200).details
    assert (details["k"], details["temperature"], details["train"]) == (3, 0.07, 3)


def test_no_probe_moves_a_backbone_with_batch_norm():
    torch.manual_seed(0)
    model = image_encoder("micro-resnet").train()
    colours = [(40 * (i // 8), 200 - 20 * (i % 8), 30 * (i % 3)) for i in range(32)]
    records = [{"image": Image.new("RGB", (32, 32), c), "label": i // 8} for i, c in enumerate(colours)]
    source = Records(records, name="colours", classes=list("abcd"))
    before = copy.deepcopy(model.state_dict())
    episodes = {"ways": 2, "shots": [1], "queries": 5, "episodes": 3}
    protocols = ["knn", "linear_probe", "clustering", "geometry", "few_shot"]
    evaluate(model, source, protocols, batch_size=8, options={"few_shot": episodes})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    pixels = model.preprocess([record["image"] for record in records])
    with torch.no_grad():
        whole, alone = model.eval().encode_image(pixels), model.encode_image(pixels[5:6])
    torch.testing.assert_close(alone[0], whole[5], atol=1e-6, rtol=1e-5)
