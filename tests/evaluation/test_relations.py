"""Relations and things among the first k names: ranks worked out by hand, and a model by its own logits."""

import pytest
import torch
from PIL import Image

from nearfar.data import Records, train_tokenizer
from nearfar.data.fields.phrase_field import PhraseField
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.words.relation_accuracy import relations
from nearfar.models import relation_encoder

RELATIONS, OBJECTS = ["on", "under", "near"], ["cat", "mat", "dog"]
TOKENIZER = train_tokenizer(["cat mat dog red on under near"] * 3, 300)
PICTURE = Image.new("RGB", (8, 8))
RECORDS = [
    {"objects": [{"name": "cat"}, {"name": "mat"}], "relations": [[0, "on", 1], [1, "under", 0]]},
    {"objects": [{"name": "dog"}, {"name": "mat"}], "relations": [[0, "near", 1], [0, "beside", 1]]},
    {"objects": [{"name": "bird"}, {"name": "cat"}], "relations": []},
]
RECORDS = [{"image": PICTURE, **record} for record in RECORDS]


class Says(torch.nn.Module):
    """Every thing has one logit for each name, and every pair one score for each relation, whatever the picture."""

    relations, objects, device = RELATIONS, OBJECTS, torch.device("cpu")

    def __init__(self, things, pairs):
        super().__init__()
        self.things, self.scores = torch.tensor(things), torch.tensor(pairs)
        self.down, self.relation = torch.nn.Identity(), self

    def fields(self, training):
        return [PhraseField(TOKENIZER, relations=RELATIONS, objects=OBJECTS, most_objects=4)]

    def preprocess(self, pictures):
        return torch.zeros(len(pictures), 3, 8, 8)

    def ground(self, pixels, phrases):
        return torch.zeros(len(pixels), 4, 2)

    def object_logits(self, grounded):
        return self.things.expand(len(grounded), -1)

    def pairs(self, subject, target):
        return self.scores.expand(len(subject), -1)


def test_the_right_name_among_the_first_k():
    """Labels: on, under, near of pairs, which rank 1, 3 and 4 of four; cat, mat, dog, mat, cat of things."""
    says = Says([0.0, 3.0, 2.0, 1.0], [2.0, 4.0, 1.0, 0.0])
    result = relations(says, Records(RECORDS), ks=(1, 2, 3, 9))
    assert list(result.metrics) == [
        *(f"{what}_top{k}" for what in ("relation", "object") for k in (1, 2, 3)),
        "relation_mean",
    ]
    top = {name: result[name] for name in result.metrics}
    assert (top["relation_top1"], top["relation_top2"], top["relation_top3"]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))
    assert (top["object_top1"], top["object_top2"], top["object_top3"]) == pytest.approx((2 / 5, 4 / 5, 1))
    assert (result.metrics["relation_top2"].chance, result.metrics["relation_top2"].n) == (2 / 4, 3)
    assert {name: each["top1"].value for name, each in result.by["relation"].items()} == {
        "on": 1,
        "under": 0,
        "near": 0,
    }
    assert top["relation_mean"] == pytest.approx(1 / 3)


def test_a_model_that_says_all_alike_is_never_right():
    """A tie is no knowledge: its best rank would be 1."""
    result = relations(Says([0.0] * 4, [0.0] * 4), Records(RECORDS), ks=(1, 3))
    assert {metric.value for metric in result.metrics.values()} == {0.0}


def test_a_relation_encoder_by_its_own_logits(tmp_path):
    torch.manual_seed(0)
    model = relation_encoder("tiny", relations=RELATIONS, objects=OBJECTS, tokenizer=TOKENIZER, most_objects=3).eval()
    source = Records(RECORDS, name="things")
    result = evaluate(model, source, ["relations"], progress=False)["relations"]
    (field,) = model.fields(False)
    batch = field.collate([field.prepare(record, None) for record in RECORDS], None)
    with torch.no_grad():
        things, scores = model(model.preprocess([record["image"] for record in RECORDS]), batch["phrases"])
    right = scores.argmax(1) == batch["relation_label"]
    there = batch["relation_label"] > 0
    assert result["relation_top1"] == pytest.approx(right[there].float().mean().item())
    named = batch["object_label"] > 0
    assert result["object_top1"] == pytest.approx(
        (things.argmax(2) == batch["object_label"])[named].float().mean().item()
    )
    assert relations(model, source, batch_size=1)["relation_top1"] == result["relation_top1"]


def test_what_cannot_be_judged_is_said():
    says = Says([0.0] * 4, [0.0] * 4)
    with pytest.raises(UserError, match=r"no pair of things with a relation that the model knows \(on, under, near"):
        relations(says, Records(RECORDS[2:]))
    with pytest.raises(UserError, match="ks="):
        relations(says, Records(RECORDS), ks=(0,))
    broken = [*RECORDS, {"image": PICTURE, "objects": []}]
    assert relations(says, Records(broken), max_skipped=0.5).details["skipped"] == 1
    with pytest.raises(UserError, match="more than the 10% allowed"):
        relations(says, Records(broken))
