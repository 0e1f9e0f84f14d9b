"""What goes with what in the losses of a fusion encoder: each caption with its own mask, each model with its own image
tokens. Models that record their arguments show it, and padding that must not matter does."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize, pad

from nearfar.methods.image_text import albef, tcl
from nearfar.methods.image_text.albef import ALBEF
from nearfar.methods.image_text.tcl import TCL
from nearfar.methods.parts import matching, momentum_contrast
from nearfar.methods.parts.matching import masked_language_loss, matching_loss


class Recorder:
    """A model that keeps what `match` was given: pictures, captions and masks, each named by its number."""

    training = False

    def match(self, image, text, mask, rows):
        self.pictures, self.captions, self.masks = image[rows].flatten(), text.flatten(), mask.flatten()
        self.logits = torch.stack([torch.zeros(len(text)), torch.arange(float(len(text)))], 1)
        return self.logits


@pytest.mark.parametrize("missing", [[], [2], [0, 3], [0, 1, 2, 3]])
def test_a_caption_goes_with_its_own_mask(missing):
    model, number = Recorder(), torch.arange(4.0)
    hard_text, hard_image = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 3, 0, 2])
    hard_text[missing] = hard_image[missing] = -1
    loss, _ = matching_loss(
        model,
        number.view(4, 1, 1),
        number.view(4, 1, 1),
        number.view(4, 1),
        hard_text=hard_text,
        hard_image=hard_image,
    )
    assert torch.equal(model.masks, model.captions)
    assert model.pictures[:4].tolist() == model.captions[:4].tolist() == [0, 1, 2, 3]
    having = [i for i in range(4) if i not in missing]
    wrong = list(zip(model.pictures[4:].long().tolist(), model.captions[4:].long().tolist(), strict=True))
    assert wrong[: len(having)] == [(hard_image[t].item(), t) for t in having]
    assert wrong[len(having) :] == [(i, hard_text[i].item()) for i in having]
    labels = torch.tensor([1] * 4 + [0] * (2 * len(having)))
    torch.testing.assert_close(loss, cross_entropy(model.logits, labels))


def ragged(model, batch_of):
    """A batch whose texts differ in length."""
    batch = batch_of(model)
    lengths = batch["text"]["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1
    return batch


def padded(tokens):
    return {name: pad(value, (0, 3), value=7 if name == "input_ids" else 0) for name, value in tokens.items()}


@pytest.mark.parametrize("method", [ALBEF, TCL])
def test_padding_of_the_texts_changes_no_term(method, model, batch_of, monkeypatch):
    """Words in the padded places are nobody's: those of contrast, matching, language and local features alike."""
    monkeypatch.setattr(momentum_contrast, "sample_hard_negatives", lambda *_, **__: torch.arange(4).roll(1))

    def every_second(ids, tokenizer, *, probability):
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        hidden[:, 1:4:2] = True  # inside the shortest text
        return ids.masked_fill(hidden, tokenizer.mask_token_id), ids.masked_fill(~hidden, -100)

    monkeypatch.setattr(matching, "mask_tokens", every_second)
    batch = ragged(model, batch_of)
    torch.manual_seed(5)
    made = method(model.eval(), queue_size=8, alpha=0.4).eval()
    with torch.no_grad():
        for p in made.momentum.teacher.parameters():
            p.add_(0.05)
        plain, long = made(batch), made(batch | {"text": padded(batch["text"])})
    assert plain.keys() >= {"itm", "mlm"}
    for name, value in plain.items():
        torch.testing.assert_close(long[name], value, msg=name)


def test_the_local_text_term_reads_real_words_only(model, batch_of):
    """A sample at a time, the padding cut off before."""
    batch = ragged(model, batch_of)
    method = TCL(model.eval(), queue_size=0, temperature=0.2).eval()
    with torch.no_grad():
        actual = method(batch)["lmi_text"]
        w = model.encode_text(batch["text"], normalize=True)
        locals_ = []
        for row in range(4):
            length = int(batch["text"]["attention_mask"][row].sum())
            words = {name: value[row : row + 1, :length] for name, value in batch["text"].items()}
            states = model.text_tokens(words)[0, 1:]
            locals_.append(normalize(model.text_projection(states), dim=1))
        losses = []
        for i in range(4):
            others = torch.cat([locals_[j] for j in range(4) if j != i])
            wrong = (others @ w[i] / 0.2).exp().sum()
            right = (locals_[i] @ w[i] / 0.2).exp()
            losses.append(-(right / (right + wrong)).log().mean())
    torch.testing.assert_close(actual, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


@pytest.fixture
def apart(model):
    """A student and a teacher of other weights, both large enough for the picture to reach the words."""
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(8 if p.ndim > 1 else 1)
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model.eval(), teacher.eval()


def test_teacher_and_student_read_each_its_own_image_tokens(apart, batch_of):
    student, teacher = apart
    batch = batch_of(student)
    own, other = student.image_tokens(batch["image"]), teacher.image_tokens(batch["image"])
    torch.manual_seed(2)
    ids, labels = matching.mask_tokens(batch["text"]["input_ids"], student.tokenizer, probability=0.5)
    torch.manual_seed(2)
    actual = masked_language_loss(student, teacher, batch["text"], own, other, alpha=0.4, probability=0.5)
    where, masked = labels != -100, {**batch["text"], "input_ids": ids}
    logits = student.masked_language_logits(masked, own, where)
    soft = teacher.masked_language_logits(masked, other, where).softmax(1).detach()
    expected = 0.6 * cross_entropy(logits, labels[where]) - 0.4 * (soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(actual, expected)
    mixed_up = teacher.masked_language_logits(masked, own, where).softmax(1)
    assert (mixed_up - soft).abs().max() > 1e-3, "else the test could not tell"
    actual.backward()
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(("module", "method"), [(albef, ALBEF), (tcl, TCL)])
def test_each_loss_gets_the_tensors_of_its_own_model(module, method, model, batch_of, monkeypatch):
    """Student's tokens of the student's view, teacher's of the teacher's; masks of the batch's texts."""
    arguments = {}

    def record(name, result):
        def called(*args, **settings):
            arguments[name] = args, settings
            return result

        return called

    zero, drawn = torch.zeros(()), []

    def draw(q, k, scale, *, q_group, k_group):
        drawn.append((q, k, torch.as_tensor(scale).item(), q_group.tolist(), k_group.tolist()))
        return torch.arange(4).roll(len(drawn))

    monkeypatch.setattr(momentum_contrast, "sample_hard_negatives", draw)
    monkeypatch.setattr(module, "matching_loss", record("itm", (zero, zero)))
    monkeypatch.setattr(module, "masked_language_loss", record("mlm", zero))
    batch = ragged(model, batch_of) | {"group": torch.tensor([3, 3, 8, 9])}
    made = method(model.eval(), queue_size=8, temperature=0.3, alpha=0.25, mask_probability=0.35).eval()
    teacher = made.momentum.teacher.module
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.1)
        made(batch)
        views = batch["views"] if method is TCL else (batch["image"], batch["image"])
        V, V_m = model.image_tokens(views[0]), teacher.image_tokens(views[1])
        T, T_m = model.text_tokens(batch["text"]), teacher.text_tokens(batch["text"])
        v, w = normalize(model.image_projection(V[:, 0]), dim=1), normalize(model.text_projection(T[:, 0]), dim=1)
        v_m = normalize(teacher.image_projection(V_m[:, 0]), dim=1)
        w_m = normalize(teacher.text_projection(T_m[:, 0]), dim=1)
    (student, image, text, mask), settings = arguments["itm"]
    assert student is model
    torch.testing.assert_close((image, text, mask), (V, T, batch["text"]["attention_mask"]))
    assert settings["hard_text"].tolist() == [3, 0, 1, 2]
    assert settings["hard_image"].tolist() == [2, 3, 0, 1]
    for (q, k, scale, *groups), expected in zip(drawn, [(v, w_m), (w, v_m)], strict=True):
        torch.testing.assert_close((q, k), expected)
        assert scale == pytest.approx(1 / 0.3)
        assert groups == [[3, 3, 8, 9]] * 2
    (student, believed, tokens, image, teacher_image), settings = arguments["mlm"]
    assert student is model
    assert believed is teacher
    assert tokens is batch["text"]
    torch.testing.assert_close((image, teacher_image), (V, V_m))
    assert settings == {"alpha": 0.25, "probability": 0.35}
