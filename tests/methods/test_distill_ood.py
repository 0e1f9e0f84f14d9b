"""Distilling for unseen classes (arXiv 2307.03135): what the loss is made of, what is trained, which texts count."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import nearfar
from methods.test_no_matrix_of_pairs import B, Points, step
from nearfar.classifiers.zero_shot import class_prototypes
from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import DistillOOD
from nearfar.methods.teachers.class_bank import ClassBank
from nearfar.models import create, student_encoder
from nearfar.prompting import ClassTexts

NAMES = ["red_car", "small dog", "boat"]
TEXTS = {"red_car": ["a red car"], "small dog": ["a dog", "a small dog", "it barks"], "boat": ["a boat at sea"]}
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "patch_size": 8}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 32}
TERMS = ("classification", "distance", "contrast", "alignment", "captions")


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a photo of a red car", "a small dog", "a boat"], 300)
    model = create(image=VIT, text=BERT, tokenizer=tokenizer, image_size=16, embed_dim=8, temperature=0.1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)  # else all texts of so small a model are nearly one
    return model.freeze("text", "text_projection")


@pytest.fixture
def student(teacher):
    torch.manual_seed(1)
    return student_encoder(teacher, image="micro-resnet")


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels, taught = torch.randn(n, 3, 32, 32, generator=generator), torch.randn(n, 8, generator=generator)
    return {"image": pixels, "label": torch.arange(n) % 3, "teacher_image": taught}


def alone(name, weight=1.0):
    return dict.fromkeys(TERMS, 0.0) | {name: weight}


def slow_terms(student, made, texts, captions):
    """Each term in plain torch, and which pictures the teacher reads rightly."""
    embedded = (student.encode_image(made["image"]), made["teacher_image"], texts, captions)
    o, t, w, c = (F.normalize(x, dim=1) for x in embedded)
    label, own = made["label"], torch.arange(len(o))
    q, p = t @ w.T / 0.07, o @ w.T / 0.07
    read = q.argmax(1) == label
    near = q.topk(2, dim=1).indices
    q, p_near = q.gather(1, near).log_softmax(1), p.gather(1, near).log_softmax(1)
    divergence = (q.exp() * (q - p_near)).sum(1)
    same = (label[:, None] == label) & ~torch.eye(len(o)).bool()
    s = o @ t.T / 0.07
    return {
        "classification": F.cross_entropy(p, label),
        "distance": ((o - t) ** 2).sum(1).mean(),
        "contrast": (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2,
        "alignment": divergence[read].mean(),
        "captions": F.cross_entropy((o @ c.T).masked_fill(same, -1e7), own),
    }, read


def test_the_loss_by_the_slow_way(student):
    weights = {"classification": 1.0, "distance": 0.5, "contrast": 2.0, "alignment": 3.0, "captions": 0.25}
    method = DistillOOD(student, classes=NAMES, top_k=2, **weights).eval()
    made = batch() | {"text": student.tokenize(["a red car", "a dog", "a boat", "the car", "a small dog", "boats"])}
    texts, captions = method.bank(student), student.encode_text(made["text"])
    terms, read = slow_terms(student, made, texts, captions)
    assert 0 < read.sum() < 6
    out = method(made)
    for name, value in terms.items():
        torch.testing.assert_close(out[name], value.detach(), msg=name)
    torch.testing.assert_close(out["loss"], sum(weights[name] * value for name, value in terms.items()))
    o, t = (F.normalize(x, dim=1) for x in (student.encode_image(made["image"]), made["teacher_image"]))
    torch.testing.assert_close(out["teacher_cosine"], (o * t).sum(1).mean().detach())
    own, theirs = (o @ texts.T).argmax(1), (t @ texts.T).argmax(1)
    assert out["teacher_agreement"] == (own == theirs).float().mean()
    assert out["accuracy"] == (own == made["label"]).float().mean()


@pytest.mark.parametrize("name", TERMS[:4])
def test_a_term_without_weight_is_neither_computed_nor_logged(name, student):
    out = DistillOOD(student, classes=NAMES, **alone(name, 2.0)).eval()(batch())
    assert set(TERMS) & set(out) == {name}
    torch.testing.assert_close(out["loss"].detach(), 2 * out[name])


def test_options_reach_their_terms(student):
    made = batch()

    def value(name, **options):
        return DistillOOD(student, classes=NAMES, **alone(name), **options).eval()(made)[name].item()

    assert value("contrast") != value("contrast", symmetric=False)
    assert value("alignment") != value("alignment", filter_misread=False)
    assert value("alignment", top_k=1) == 0
    assert value("distance") != value("distance", normalise_distance=False)
    for name in ("classification", "contrast", "alignment"):
        assert value(name) != value(name, temperature=0.5)


def test_where_the_teacher_misreads_all_there_is_nothing_to_align(student):
    method, made = DistillOOD(student, classes=NAMES).eval(), batch()
    read = (F.normalize(made["teacher_image"], dim=1) @ method.bank(student).T).argmax(1)
    out = method(made | {"label": (read + 1) % 3})
    assert out["alignment"] == 0
    assert out["loss"].isfinite()


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def test_the_image_side_alone_is_trained(student, teacher):
    student.freeze("image", "image_projection")  # as a stage before may leave it
    method = DistillOOD(student, teacher=teacher, classes=NAMES)
    before, taught = state(student), state(method.teacher)
    nearfar.train(method, [batch()], steps=2, lr=1e-2, warmup=0, progress=False, report=False)
    moved = {name.split(".")[0] for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"image", "image_projection"}
    assert all(torch.equal(value, taught[name]) for name, value in method.teacher.state_dict().items())


def test_embeddings_that_were_kept_are_those_that_would_be_computed(student, teacher):
    asking = DistillOOD(student, teacher=teacher, classes=NAMES).eval()
    made = batch()
    made["teacher_image"] = asking.teacher.embed(made["image"], student)
    torch.testing.assert_close(DistillOOD(student, classes=NAMES).eval()(made)["loss"], asking(made)["loss"])


def test_texts_of_a_file_are_those_that_evaluation_takes(student, tmp_path):
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({**TEXTS, "a class for the test": ["something else"]}))
    method = DistillOOD(student, classes=NAMES, texts=path).eval()
    held = ClassTexts.load(path).for_names(NAMES)
    torch.testing.assert_close(method.bank(student), class_prototypes(student, held))
    torch.testing.assert_close(ClassBank("{}", NAMES, texts=held)(student), method.bank(student))
    named = DistillOOD(student, classes=NAMES).eval()
    assert method(batch())["classification"] != named(batch())["classification"]
    with pytest.raises(UserError, match=r"texts\.json: no texts for the class 'cart'"):
        DistillOOD(student, classes=["cart"], texts=path)


def test_descriptions_go_with_names():
    texts = ClassTexts.described({"desk_lamp": ["it bends", "it glows"], "mug": "it has a handle"})
    assert texts.sentences[0] == ("a photo of desk lamp . it bends", "a photo of desk lamp . it glows")
    assert texts.sentences[1] == ("a photo of mug . it has a handle",)
    assert ClassTexts.described({"mug": "{name}"}, "{name}: {description}").texts == ["mug: {name}"]
    with pytest.raises(UserError, match=r"has no \{description\}"):
        ClassTexts.described({"mug": "it has a handle"}, "a photo of {name}")
    with pytest.raises(UserError, match="the class 'mug' has no sentence"):
        ClassTexts.described({"mug": []})


def test_it_learns_the_teachers_space_from_records(student, teacher):
    pictures = np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)
    source = Records([{"image": each, "label": i % 3} for i, each in enumerate(pictures)], classes=NAMES)
    settings = {"batch_size": 9, "lr": 1e-3, "warmup": 0, "progress": False, "report": False, "log_every": 1}
    run = nearfar.train(DistillOOD(student, teacher=teacher), source, steps=12, **settings)
    assert run.history[-1]["teacher_cosine"] > run.history[0]["teacher_cosine"] + 0.2
    assert run.model.temperature == 0.07


def test_a_step_holds_no_matrix_of_pairs():
    class Student(Points):
        def __init__(self):
            super().__init__()
            self.text.requires_grad_(False)

        def freeze(self, *parts):
            return self

        unfreeze = freeze

        def tokenize(self, texts):
            return {"input_ids": torch.eye(8)[: len(texts)]}

        def encode_text(self, tokens, normalize=False):
            return self.text(tokens["input_ids"] if isinstance(tokens, dict) else tokens)

    image, taught, text = torch.randn(3, B, 8)
    method = DistillOOD(Student(), classes=["a", "b", "c"], captions=1.0)
    step(method, {"image": image, "teacher_image": taught, "text": text, "label": torch.arange(B) % 3})


def test_what_is_refused(student, teacher):
    wide = create(image=VIT, text=BERT, tokenizer=teacher.tokenizer, image_size=16, embed_dim=16)
    for settings, words in [
        ({"contrast": -1.0}, "contrast is -1.0: a term's weight is from 0 on"),
        ({"alignment": float("nan")}, "alignment is nan"),
        (dict.fromkeys(TERMS, 0.0), "all terms have the weight 0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"caption_temperature": -1.0}, "caption_temperature must be positive"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"teacher": wide}, "the teacher's embeddings are 16 wide and the student's 8"),
        ({"templates": "a photo"}, "place for the name|with {}"),
        ({"texts": "nowhere.json"}, r"nowhere\.json is not there"),
        ({"classes": ["desk_lamp", "desk lamp"]}, "two classes are called 'desk lamp'"),
    ]:
        with pytest.raises(UserError, match=words):
            DistillOOD(student, **{"classes": NAMES, **settings})
    with pytest.raises(UserError, match="this is a Linear: make a student"):
        DistillOOD(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="photos names no classes"):
        DistillOOD(student).begin(DataInfo(name="photos"))
    with pytest.raises(UserError, match="knows no class names yet"):
        DistillOOD(student)(batch())
    method = DistillOOD(deepcopy(student), classes=NAMES)
    with pytest.raises(UserError, match="no column 'teacher_image'"):
        method({"image": batch()["image"], "label": batch()["label"]})
    with pytest.raises(UserError, match="is 4 wide and the student's embeddings 8"):
        method({**batch(), "teacher_image": torch.zeros(6, 4)})
    with pytest.raises(UserError, match="no labels"):
        method({name: value for name, value in batch().items() if name != "label"})
    for label in (-1, 3):
        with pytest.raises(UserError, match=f"has the label {label}, and there are names for 0 to 2"):
            method({**batch(1), "label": torch.tensor([label])})
