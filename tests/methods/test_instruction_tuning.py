"""Answers after questions: the loss by hand, shares of several answers, and what is learnt."""

from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import Captioning, InstructionTuning
from nearfar.models import vision_language_model

QUESTIONS = ["what is it?", "how many dogs are there?", "is it red?"]
ANSWERS = [["a car", "one car"], ["two", ""], ["no", ""]]
SHARES = torch.tensor([[0.75, 0.25], [1.0, 0.0], [1.0, 0.0]])
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    texts = [*QUESTIONS, *(text for row in ANSWERS for text in row)]
    return vision_language_model(VIT, "tiny", tokenizer=train_tokenizer(texts * 3, 320), image_size=16).eval()


def batch_of(model):
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    answers = model.tokenize([text for row in ANSWERS for text in row])
    return {"image": pixels, "text": model.tokenize(QUESTIONS), "answers": answers, "answer_weight": SHARES}


@pytest.mark.parametrize("reduction", ["tokens", "captions"])
def test_the_loss_is_of_the_answers_alone_each_by_its_share(model, reduction):
    model, batch = deepcopy(model).double(), batch_of(model)
    batch["image"] = batch["image"].double()
    total, weight, plain, count = 0.0, 0.0, 0.0, 0
    pictures, embed = model.picture_tokens(batch["image"]), model.lm.get_input_embeddings()
    for row, question in enumerate(QUESTIONS):
        for answer, share in zip(ANSWERS[row], SHARES[row].tolist(), strict=True):
            if share == 0:
                continue
            begin, *asking = model.tokenizer(question)["input_ids"][:-1]
            target = model.tokenizer(answer)["input_ids"][1:]  # and the end
            ids = torch.tensor([[begin, *asking, *target]])
            logits = model.lm(inputs_embeds=torch.cat([pictures[row, None], embed(ids)], 1)).logits
            nll = F.cross_entropy(logits[0, -len(target) - 1 : -1], torch.tensor(target), reduction="none")
            own = nll.sum() if reduction == "tokens" else nll.mean()
            total, weight = total + share * own, weight + share * (len(target) if reduction == "tokens" else 1)
            plain, count = plain + nll.sum(), count + len(target)
    out = InstructionTuning(model, reduction=reduction).eval()(batch)
    torch.testing.assert_close(out["loss"], total / weight, rtol=1e-9, atol=0)
    torch.testing.assert_close(out["token_loss"], plain / count, rtol=1e-9, atol=0)


def test_with_one_answer_each_it_is_captioning_with_the_question_for_a_prompt(model):
    batch = batch_of(model)
    first = {name: each[::2] for name, each in batch["answers"].items()}
    one = InstructionTuning(model).eval()(batch | {"answers": first, "answer_weight": torch.ones(3, 1)})
    score, mask = model.likelihoods(batch["image"], first, QUESTIONS)
    torch.testing.assert_close(one["loss"], -score.sum() / mask.sum())
    same = deepcopy(model)
    same.prompt = QUESTIONS[0]
    alone = {name: each[:1] for name, each in first.items()}
    captions = Captioning(same).eval()({"image": batch["image"][:1], "text": alone})["loss"]
    part = {"image": batch["image"][:1], "answers": alone, "answer_weight": torch.ones(1, 1)}
    part["text"] = model.tokenize(QUESTIONS[:1])
    torch.testing.assert_close(InstructionTuning(model).eval()(part)["loss"], captions)


def test_batches_without_answers_are_named(model):
    batch = batch_of(model)
    del batch["answers"]
    with pytest.raises(UserError, match="instruction needs answers"):
        InstructionTuning(model)(batch)


def test_it_learns_to_answer_about_the_picture():
    from PIL import Image

    shades = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    asking = "what colour is it?"
    records = [
        {"image": Image.new("RGB", (16, 16), rgb), "text": asking, "answers": [name]} for name, rgb in shades.items()
    ]
    torch.manual_seed(0)
    tokenizer = train_tokenizer([*shades, asking] * 3, 300)
    model = vision_language_model(VIT | {"hidden_size": 32}, "tiny", tokenizer=tokenizer, image_size=16)
    photos = Records(records, name="photos")
    nearfar.train(InstructionTuning(model), photos, steps=60, batch_size=4, lr=3e-3, progress=False, report=False)
    pixels = model.preprocess([record["image"] for record in records])
    assert model.caption(pixels, [asking] * 4, max_tokens=4) == list(shades)
    assert [text for text, _ in model.answer(pixels, [asking] * 4, list(shades))] == list(shades)
