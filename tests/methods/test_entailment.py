"""The classifier of pairs: its loss against the formula, its teacher, and that it learns."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from nearfar.errors import UserError
from nearfar.methods.image_text.entailment import Entailment
from nearfar.models import FusionClassifier


def labelled(model, batch_of, n=4):
    return batch_of(model, n) | {"label": torch.arange(n) % 3}


def test_loss_is_the_mixture(model, batch_of):
    method = Entailment(model.eval(), alpha=0.4).eval()
    batch = labelled(model, batch_of)
    with torch.no_grad():
        for p in method.distillation.teacher.module.classifier.parameters():
            p.add_(0.2)
        out = method(batch)
        logits = method.model.classify(batch["image"], batch["text"])
        soft = method.distillation.teacher.module.classify(batch["image"], batch["text"]).softmax(1)
    expected = 0.6 * cross_entropy(logits, batch["label"]) - 0.4 * (soft * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(out["loss"], expected)
    assert out["accuracy"] == (logits.argmax(1) == batch["label"]).float().mean()


def test_learns_and_its_teacher_follows(model, batch_of):
    torch.manual_seed(0)
    method = Entailment(model, momentum=0.5, ramp_steps=20)
    batch = labelled(model, batch_of)
    optimiser = torch.optim.AdamW(method.parameters(), 1e-2)
    first = method(batch)["loss"].item()
    for step in range(40):
        loss = method(batch)["loss"]
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(step + 1)
    out = method.eval()(batch)
    assert out["loss"].item() < first / 2
    assert out["accuracy"] == 1
    assert out["alpha"].item() == pytest.approx(0.4)
    gap = method.distillation.teacher.module.classifier[0].weight - method.model.classifier[0].weight
    assert 0 < gap.abs().max() < 0.1
    assert all(p.grad is None for p in method.distillation.teacher.parameters())


def test_keeps_a_classifier_and_needs_labels(model, batch_of):
    ready = FusionClassifier.of(model, classes=5)
    method = Entailment(ready, alpha=0.0)
    assert method.model is ready
    assert method.distillation is None
    method(labelled(model, batch_of))["loss"].backward()
    batch = batch_of(model)
    for wrong in (batch, batch | {"label": torch.tensor([0, 1, -1, 2])}):
        with pytest.raises(UserError, match="needs a label"):
            method(wrong)
    with pytest.raises(ValueError, match="share"):
        Entailment(ready, alpha=2.0)


def test_judges_lists_of_pairs(model):
    from PIL import Image

    judge = FusionClassifier.of(model, classes=3).train()
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "white")]
    texts = ["a red car", "two small dogs", "a boat at sea, far off"]
    judged = judge.judge(pictures, texts, batch_size=2)
    assert judged.shape == (3, 3)
    torch.testing.assert_close(judged.sum(1), torch.ones(3))
    one = judge.judge(judge.preprocess(pictures[2:]), texts[2:])
    torch.testing.assert_close(judged[2:], one)
    assert judge.training, "and is left as it was"
    assert judge.judge([], []).shape == (0, 3)
    with pytest.raises(UserError, match="one picture a text"):
        judge.judge(pictures, texts[:2])
