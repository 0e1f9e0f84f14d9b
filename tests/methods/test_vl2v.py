"""VL2V (arXiv 2310.08255): what each stage trains, what the loss is, where the teacher's embeddings come from."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.losses.functional import target_alignment
from nearfar.methods import VL2V
from nearfar.methods.image_text.vl2v import mixed
from nearfar.methods.teachers.class_bank import ClassBank
from nearfar.methods.teachers.frozen_teacher import FrozenTeacher
from nearfar.methods.video import frozen_texts
from nearfar.models import create, student_encoder

NAMES = ["red_car", "small dog", "boat"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "patch_size": 8}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a photo of a red car", "a small dog", "a boat"], 300)
    model = create(image=VIT, text=BERT, tokenizer=tokenizer, image_size=16, embed_dim=8, temperature=0.1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)  # else all texts of so small a model are nearly one
    model.pixels = replace(model.pixels, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))  # none of the student's
    return model.freeze("text", "text_projection")


@pytest.fixture
def student(teacher):
    torch.manual_seed(1)
    return student_encoder(teacher, image="micro-resnet")


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(n, 3, 32, 32, generator=generator), "label": torch.arange(n) % 3}


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def changed(module, before):
    return {name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


STAGES = {"align": {"image_projection"}, "distill": {"image"}, "together": {"image", "image_projection"}}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_parts_and_leaves_all_else_to_the_bit(stage, student, teacher):
    method = VL2V(student, teacher=teacher, stage=stage, classes=NAMES)
    before, taught, own = state(student), state(method.teacher), state(teacher)
    nearfar.train(method, [batch()], steps=3, lr=1e-2, warmup=0, progress=False, report=False)
    assert changed(student, before) == STAGES[stage]
    assert not changed(method.teacher, taught) | changed(teacher, own)
    running = [name for name in before if "running_" in name]
    assert running
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in running)


def test_batch_norm_learns_from_batches_where_it_is_to(student, teacher):
    before = state(student)
    method = VL2V(student, teacher=teacher, stage="distill", classes=NAMES, freeze_batch_norm=False)
    nearfar.train(method, [batch()], steps=1, lr=1e-3, warmup=0, progress=False, report=False)
    assert any(not torch.equal(v, before[n]) for n, v in student.state_dict().items() if "running_mean" in n)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_by_the_slow_way(weight, student, teacher):
    method, made = VL2V(student, teacher=teacher, classes=NAMES, image_weight=weight).eval(), batch()
    out = method(made)
    phi = student.encode_image(made["image"])
    pixels = F.interpolate(made["image"], (16, 16), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (student.mean, student.std))
    pixels = F.interpolate(made["image"] * std + mean, (16, 16), mode="bicubic", antialias=True, align_corners=False)
    own_mean, own_std = (torch.tensor(v).view(3, 1, 1) for v in (teacher.mean, teacher.std))
    image = teacher.encode_image((pixels - own_mean) / own_std)
    texts = teacher.encode_text(teacher.tokenize(["a photo of a " + n for n in ("red car", "small dog", "boat")]))
    cosine = F.cosine_similarity
    expected = -(weight * cosine(phi, image) + (1 - weight) * cosine(phi, texts[made["label"]])).mean()
    torch.testing.assert_close(out["loss"], expected)
    logits = F.normalize(phi, dim=1) @ F.normalize(texts, dim=1).T / 0.1
    torch.testing.assert_close(out["cross_entropy"], F.cross_entropy(logits, made["label"]))
    assert out["accuracy"] == (logits.argmax(1) == made["label"]).float().mean()


def test_a_weight_of_one_reads_no_labels_and_a_weight_of_zero_no_teacher(student, teacher):
    made = batch()
    for weight, same in ((1.0, True), (0.0, False)):
        method = VL2V(student, teacher=teacher, classes=NAMES, image_weight=weight).eval()
        other = method({**made, "label": made["label"].roll(1)})["loss"]
        assert torch.equal(method(made)["loss"], other) == same
    alone = VL2V(student, teacher=teacher, image_weight=1.0).eval()
    alone.begin(DataInfo(name="pictures"))
    assert set(alone({"image": made["image"]})) == {"loss"}
    no_teacher = VL2V(student, classes=NAMES, image_weight=0.0).eval()
    assert no_teacher(made)["loss"].isfinite()


def test_the_second_stage_starts_where_the_first_ended(student, teacher):
    first = VL2V(student, teacher=teacher, classes=NAMES)
    nearfar.train(first, [batch()], steps=2, lr=1e-2, warmup=0, progress=False, report=False)
    second = VL2V(deepcopy(student), teacher=teacher, classes=NAMES, stage="distill").eval()
    assert torch.equal(first(batch())["loss"], second(batch())["loss"])


def test_the_teachers_own_image_side_starts_in_its_place(teacher):
    """VL2V-SD: a student that is the teacher agrees with its pictures exactly before the first step."""
    method = VL2V(deepcopy(teacher), teacher=teacher, stage="together", classes=NAMES, image_weight=1.0).eval()
    made = {**batch(), "image": torch.randn(6, 3, 16, 16)}
    assert method(made)["loss"].item() == pytest.approx(-1.0, abs=1e-6)


def test_embeddings_that_were_kept_are_those_that_would_be_computed(student, teacher):
    asking = VL2V(student, teacher=teacher, classes=NAMES).eval()
    made = batch()
    made["teacher_image"] = asking.teacher.embed(made["image"], student)
    kept = VL2V(student, classes=NAMES).eval()
    torch.testing.assert_close(kept(made)["loss"], asking(made)["loss"], rtol=0, atol=0)


def test_a_picture_of_the_same_size_and_colours_is_handed_on(teacher):
    pixels = torch.rand(2, 3, 16, 16)
    frozen = FrozenTeacher(teacher)
    assert frozen.prepared(pixels, teacher) is pixels
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not frozen.train().model.training
    assert any(p.requires_grad for p in teacher.image.parameters()), "the user's own model stays as it is"


def test_templates_are_averaged_as_unit_vectors(teacher):
    texts = {name: teacher.encode_text(teacher.tokenize([name])) for name in ("a boat", "the boat")}
    one, other = (F.normalize(value, dim=1) for value in texts.values())
    bank = ClassBank(["a {}", "the {}"], ["boat"])
    torch.testing.assert_close(bank(teacher).detach(), F.normalize(one + other, dim=1).detach())
    torch.testing.assert_close(ClassBank(["a {}"], ["boat"])(teacher), ClassBank(["a {}", "a {}"], ["boat"])(teacher))
    torch.testing.assert_close(ClassBank("a {}", ["boat"])(teacher).norm(dim=1).detach(), torch.ones(1))


def test_a_longer_embedding_of_a_sentence_weighs_no_more():
    class Texts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = torch.nn.Parameter(torch.tensor([[10.0, 0.0], [0.0, 1.0]]), requires_grad=False)

        def tokenize(self, texts):
            return {"input_ids": torch.arange(len(texts))}

        def encode_text(self, tokens):
            return self.rows[tokens["input_ids"]]

    torch.testing.assert_close(ClassBank(["a {}", "the {}"], ["boat"])(Texts()), torch.full((1, 2), 0.5**0.5))


def test_many_sentences_are_embedded_a_part_at_a_time(teacher, monkeypatch):
    whole = ClassBank(["a {}", "the {}"], NAMES)(teacher)
    monkeypatch.setattr(frozen_texts, "AT_ONCE", 4)
    torch.testing.assert_close(ClassBank(["a {}", "the {}"], NAMES)(teacher), whole)


def test_it_predicts_the_class_whose_text_it_lies_on(student):
    bank = ClassBank("a {}", NAMES)
    texts = bank(student)
    cosines = F.normalize(5 * texts, dim=1) @ texts.T
    assert cosines.argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(cosines.diagonal(), torch.ones(3))


def test_cutmix_weighs_the_classes_by_the_pixels_that_each_has(student, teacher):
    """Pictures of one brightness each: the mean of a mixture is the partner's share of its pixels."""
    pixels = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    shares = set()
    for _ in range(60):
        mixture, share, other = mixed(pixels, torch.tensor([0, 1]), 1.0)
        brighter = torch.stack([other[0], other[1]]).float() * (1 - share) + torch.tensor([0.0, 1.0]) * share
        torch.testing.assert_close(mixture.mean((1, 2, 3)), brighter, rtol=0, atol=1e-6)
        shares.add(round(share, 4))
    assert len(shares) > 5
    method = VL2V(student, teacher=teacher, classes=NAMES, cutmix=1.0)
    plain = VL2V(student, teacher=teacher, classes=NAMES)
    assert torch.equal(method.eval()(batch())["loss"], plain.eval()(batch())["loss"])
    torch.manual_seed(3)
    made, loss = batch(), method.train()(batch())["loss"]
    torch.manual_seed(3)
    mixture, share, other = mixed(made["image"], made["label"], 1.0)
    assert 0 < share < 1
    phi, image, texts = student.encode_image(mixture), method.teacher.embed(mixture, student), method.bank(student)
    one, two = (target_alignment(phi, image, texts[label]) for label in (made["label"], other))
    torch.testing.assert_close(loss, share * one + (1 - share) * two)


def test_the_rectangle_keeps_its_place_and_the_second_label_is_its_own():
    pixels, label = torch.rand(4, 3, 9, 9), torch.arange(4)
    for seed in range(20):
        torch.manual_seed(seed)
        mixture, _, other = mixed(pixels, label, 1.0)
        own = mixture == pixels
        torch.testing.assert_close(mixture, torch.where(own, pixels, pixels[other]), rtol=0, atol=0)


def test_a_mixture_counts_for_each_class_by_its_pixels_and_as_a_hit_by_the_larger_part(student, teacher, monkeypatch):
    method, made = VL2V(student, teacher=teacher, classes=NAMES, cutmix=1.0).train(), batch()
    monkeypatch.setattr(method, "_student", lambda pixels: method.bank(student)[made["label"]])
    larger = set()
    for seed in range(12):
        torch.manual_seed(seed)
        out = method(made)
        torch.manual_seed(seed)
        mixture, share, other = mixed(made["image"], made["label"], 1.0)
        expected = 1.0 if share >= 0.5 else (other == made["label"]).float().mean()
        assert out["accuracy"] == expected
        texts, image = method.bank(student), method.teacher.embed(mixture, student)
        one, two = (target_alignment(texts[made["label"]], image, texts[label]) for label in (made["label"], other))
        torch.testing.assert_close(out["loss"], share * one + (1 - share) * two)
        larger.add(share >= 0.5)
    assert larger == {True, False}


def test_from_records_with_class_names_and_domains(student, teacher):
    pictures = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    records = [{"image": each, "label": i % 3, "domain": i % 2} for i, each in enumerate(pictures)]
    source = Records(records, classes=NAMES, domains=["art", "photo"])
    run = nearfar.train(VL2V(student, teacher=teacher), source, steps=2, batch_size=4, progress=False, report=False)
    assert {"accuracy", "cross_entropy"} <= set(run.metrics)
    assert run.model.temperature == 0.1


def test_what_is_refused(student, teacher):
    other = create(image=VIT, text=BERT, tokenizer=teacher.tokenizer, image_size=16, embed_dim=8)
    wide = create(image=VIT, text=BERT, tokenizer=teacher.tokenizer, image_size=16, embed_dim=16)
    for settings, words in [
        ({"stage": "both"}, "stage is 'both': choose one of align, distill, together"),
        ({"image_weight": 2.0}, "image_weight must be from 0 to 1"),
        ({"cutmix": -1.0, "teacher": teacher}, "cutmix is -1.0"),
        ({"cutmix": 1.0}, "name the teacher"),
        ({"teacher": wide}, "the teacher's embeddings are 16 wide and the student's 8"),
        ({"templates": "a photo"}, "place for the name|with {}"),
        ({"classes": ["desk_lamp", "desk lamp"]}, "two classes are called 'desk lamp'"),
    ]:
        with pytest.raises(UserError, match=words):
            VL2V(student, **{"classes": NAMES, **settings})
    with pytest.raises(UserError, match="this is a Linear: make a student"):
        VL2V(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="the student and the teacher embed 'a photo of a red car' differently"):
        VL2V(student, teacher=other, classes=NAMES).begin(DataInfo(name="photos"))
    with pytest.raises(UserError, match="photos names no classes"):
        VL2V(student, teacher=teacher).begin(DataInfo(name="photos"))
    with pytest.raises(UserError, match="knows no class names yet"):
        VL2V(student, teacher=teacher)(batch())
    method = VL2V(student, classes=NAMES)
    with pytest.raises(UserError, match="no column 'teacher_image'"):
        method(batch())
    with pytest.raises(UserError, match="is 4 wide and the student's embeddings 8"):
        method({**batch(), "teacher_image": torch.zeros(6, 4)})
    with pytest.raises(UserError, match="no labels"):
        method({"image": batch()["image"]})
    for label in (-1, 3):
        with pytest.raises(UserError, match=f"has the label {label}, and there are names for 0 to 2"):
            method({**batch(1), "label": torch.tensor([label])})
    with pytest.raises(UserError, match="features that were read ahead"):
        VL2V(student, teacher=teacher, classes=NAMES)({"image": torch.zeros(2, 128), "label": torch.zeros(2).long()})
