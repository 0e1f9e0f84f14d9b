"""Answering: its loss against the formula, its teacher, batches in parts, and that it learns to look."""

import copy

import pytest
import torch
from PIL import Image

import nearfar
from nearfar.data import Loader, Records
from nearfar.data.batches.batch import rows
from nearfar.errors import UserError
from nearfar.methods.image_text.answering import Answering
from nearfar.models import FusionAnswerer, FusionModel, load

ANSWERS = ["red", "two dogs", "", "a tower", "sea", "house", "fish", "", "", "car", "", ""]
WEIGHTS = torch.tensor([[0.75, 0.25, 0.0], [0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])


def questions_of(model, batch_of):
    return batch_of(model, 4) | {"answers": model.tokenize(ANSWERS), "answer_weight": WEIGHTS}


def by_hand(method, batch, alpha):
    """The formula, an answer and a token at a time, in double precision."""
    method = method.double()
    batch = batch | {"image": batch["image"].double()}
    total = 0.0
    for q in range(4):
        tokens = {name: value[q : q + 1] for name, value in batch["text"].items()}
        for k in range(3):
            answer = {name: value[3 * q + k][None] for name, value in batch["answers"].items()}
            length = int(answer["attention_mask"].sum())
            words = []
            for model in (method.model, method.distillation.teacher.module):
                states = model.text.multimodal(tokens, model.image_tokens(batch["image"][q : q + 1]))
                words.append(model.answer_logits(states, tokens["attention_mask"], answer)[0])
            student, teacher = words
            for t in range(length - 1):
                log_p = student[t].log_softmax(-1)
                hard = -log_p[answer["input_ids"][0, t + 1]]
                soft = -(teacher[t].softmax(-1) * log_p).sum()
                total += WEIGHTS[q, k].double() * ((1 - alpha) * hard + alpha * soft)
    return total / 4


@pytest.fixture
def method(model):
    made = Answering(model, alpha=0.4).eval()
    with torch.no_grad():
        for p in made.distillation.teacher.module.decoder.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def test_loss_is_the_formula(method, batch_of):
    batch = questions_of(method.model, batch_of)
    with torch.no_grad():
        actual = method(batch)["loss"]
        torch.testing.assert_close(actual.double(), by_hand(method, batch, 0.4), atol=1e-5, rtol=1e-5)


def test_distillation_is_affine_in_alpha(method, batch_of):
    batch = questions_of(method.model, batch_of)
    losses = []
    for method.distillation.alpha in (0.0, 0.25, 1.0):
        with torch.no_grad():
            losses.append(method(batch)["loss"])
    torch.testing.assert_close(losses[1], 0.75 * losses[0] + 0.25 * losses[2])
    assert (losses[0] - losses[2]).abs() > 1e-3


def test_answers_count_by_their_share_and_questions_by_their_weight(method, batch_of):
    batch = questions_of(method.model, batch_of)
    with torch.no_grad():
        whole = method(batch)["loss"]
        alone = []
        for k in range(12):
            weight = torch.zeros(12)
            weight[k] = 1.0
            alone.append(method(batch | {"answer_weight": weight.view(4, 3)})["loss"])
        torch.testing.assert_close(whole, (torch.stack(alone) * WEIGHTS.flatten()).sum())
        half = method(batch | {"weight": torch.tensor([1.0, 0.5, 0.0, 1.0])})["loss"]
    expected = torch.stack(alone) * WEIGHTS.flatten() * torch.tensor([1.0, 0.5, 0.0, 1.0]).repeat_interleave(3)
    torch.testing.assert_close(half, expected.sum())


def test_accuracy_is_the_share_of_answers_that_the_decoder_would_write(method, batch_of, monkeypatch):
    """Logits that write every answer but one, word by word; that one's share is lost."""
    batch = questions_of(method.model, batch_of)

    def logits(model, states, mask, answers):
        actual = torch.nn.functional.one_hot(answers["input_ids"].roll(-1, 1), 400).float()
        actual[1, 0] = 0.0  # the second answer, a quarter of question 0, begins with another word
        actual[1, 0, 399] = 1.0
        return actual

    monkeypatch.setattr(type(method.model), "answer_logits", logits)
    assert method(batch)["accuracy"].item() == pytest.approx(1 - 0.25 / 4)


def test_empty_answers_change_nothing(method, batch_of):
    batch = questions_of(method.model, batch_of)
    other = ANSWERS.copy()
    for place, weight in enumerate(WEIGHTS.flatten()):
        if not weight:
            other[place] = "one red fish near a tall tower"
    with torch.no_grad():
        plain, padded = method(batch), method(batch | {"answers": method.model.tokenize(other)})
    torch.testing.assert_close(plain["loss"], padded["loss"])


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(method, batch_of):
    """What accumulation and several processes do: the mean over equal parts."""
    batch = questions_of(method.model, batch_of)
    gradients = []
    for parts in ([batch], [rows(batch, 0, 2, 4), rows(batch, 2, 4, 4)]):
        method.zero_grad()
        for part in parts:
            (method(part)["loss"] / len(parts)).backward()
        gradients.append({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(name.startswith("model.decoder") for name in gradients[0])
    assert any(name.startswith("model.image") for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_keeps_an_answerer_and_needs_answers(model, batch_of):
    ready = FusionAnswerer.of(model, decoder_layers=2)
    method = Answering(ready, alpha=0.0)
    assert method.model is ready
    assert method.distillation is None
    method(questions_of(ready, batch_of))["loss"].backward()
    with pytest.raises(UserError, match="answers=NAME"):
        method(batch_of(ready))
    with pytest.raises(ValueError, match="share"):
        Answering(ready, alpha=-0.1)
    assert len(Answering(model, decoder_layers=3).model.decoder.bert.encoder.layer) == 3


def test_alpha_grows_over_the_ramp_and_the_teacher_follows(model, batch_of):
    method = Answering(model, momentum=0.5, ramp_steps=4)
    calls = []
    for step in range(6):
        calls.append(method.distillation.alpha_now())
        with torch.no_grad():
            for p in method.model.decoder.parameters():
                p.add_(0.01)
        method.after_step(step + 1)
    assert calls == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.4])
    gap = method.model.decoder.language.bias - method.distillation.teacher.module.decoder.language.bias
    assert gap.abs().max().item() == pytest.approx(0.01 * (1 - 0.5**6), rel=1e-3)


COLOURS = {"red": (220, 20, 20), "tall": (20, 180, 40), "sea": (30, 40, 220)}
"""A colour each, and what it is called in words that the small vocabulary knows."""


@pytest.fixture(scope="module")
def coloured():
    """Questions whose answer is in the picture alone, and some that both annotators do not agree on."""
    records = []
    for i in range(24):
        name = list(COLOURS)[i % 3]
        answer_list = [name] if i % 2 else [name, name, name, "old"]
        records.append(
            {"image": Image.new("RGB", (16, 16), COLOURS[name]), "text": "a red car", "answers": answer_list}
        )
    return Records(records, name="coloured")


@pytest.fixture(scope="module")
def still(base):
    """The model without dropout."""
    config = copy.deepcopy(base.config())
    config["text"]["spec"]["config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    return FusionModel.from_config(config, base.tokenizer)


def test_learns_to_look_through_the_trainer(still, coloured, tmp_path):
    method = Answering(copy.deepcopy(still), momentum=0.9, ramp_steps=30)
    options = {"steps": 150, "batch_size": 12, "lr": 2e-2, "weight_decay": 0.0, "progress": False, "report": False}
    run = nearfar.train(method, coloured, out=tmp_path / "run", **options)
    trained = load(run.out)
    assert isinstance(trained, FusionAnswerer)
    pictures = [Image.new("RGB", (16, 16), colour) for colour in COLOURS.values()]
    actual = trained.answer(pictures, ["a red car"] * 3, [*COLOURS, "old", "dogs"])
    assert [text for text, _ in actual] == list(COLOURS)
    assert run.metrics["loss"] < run.history[0]["loss"] / 3


def test_stopped_and_resumed_to_the_bit(base, coloured, tmp_path, monkeypatch):
    options = {"steps": 6, "batch_size": 8, "lr": 1e-3, "save_every": 2, "progress": False, "report": False}

    def go(out):
        torch.manual_seed(3)
        return nearfar.train(Answering(copy.deepcopy(base), ramp_steps=4), coloured, out=out, resume=True, **options)

    class Stop(BaseException):
        pass

    go(tmp_path / "whole")
    original = Answering.after_step

    def stop(self, step):
        if step == 5:
            raise Stop
        original(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Answering, "after_step", stop)
        with pytest.raises(Stop):
            go(tmp_path / "part")
    go(tmp_path / "part")
    kept = "checkpoints/last/method.safetensors"
    assert (tmp_path / "part" / kept).read_bytes() == (tmp_path / "whole" / kept).read_bytes()


def test_accumulation_takes_the_same_step_as_one_batch(still, coloured):
    ends = []
    ready = FusionAnswerer.of(still)
    for size, accumulate in ((8, 1), (4, 2)):
        method = Answering(copy.deepcopy(ready), alpha=0.0)
        loader = Loader(coloured, batch_size=size, image_size=16, tokenizer=still.tokenizer, views="none", answers=True)
        nearfar.train(method, loader, steps=1, accumulate=accumulate, lr=1e-3, progress=False, eps=1e-3)
        ends.append(method.model.decoder.language.dense.weight.detach().clone())
    assert (ends[0] - ready.decoder.language.dense.weight).abs().max() > 1e-5
    torch.testing.assert_close(ends[0], ends[1], atol=1e-6, rtol=1e-4)
