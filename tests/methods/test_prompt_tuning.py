"""Learning prompts: CoOp's, CoCoOp's and MaPLe's loss and gradient, and what of the model is trained."""

import pytest
import torch
from torch.nn import functional as F

import nearfar
from models.prompted_pairs import NAMES, PAIRS, ours
from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods import PromptTuning
from nearfar.models import prompted_encoder

KINDS = {"coop": {}, "cocoop": {}, "maple": {"depth": 2}}


def batch(n=6, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randn(n, 3, 16, 16, generator=generator).to(dtype), "label": torch.arange(n) % 3}


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_by_the_slow_way(kind):
    model = prompted_encoder(ours(), kind=kind, context=2, **KINDS[kind]).double()
    method, made = PromptTuning(model, classes=NAMES), batch(dtype=torch.float64)
    out = method(made)
    pictures, rows = model.encode_image(made["image"]), []
    for picture in pictures:  # each picture with each name, one at a time
        row = []
        for name in NAMES:
            tokens = model.tokenize([name])
            own = model.class_texts(tokens, picture[None]).reshape(-1)
            row.append(F.cosine_similarity(picture, own, dim=0) / 0.1)
        rows.append(torch.stack(row))
    logits = torch.stack(rows)
    loss = torch.stack([-row.log_softmax(0)[label] for row, label in zip(logits, made["label"], strict=True)]).mean()
    torch.testing.assert_close(out["loss"], loss)
    assert out["accuracy"] == (logits.argmax(1) == made["label"]).double().mean()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for mine, slow in zip(torch.autograd.grad(out["loss"], learned), torch.autograd.grad(loss, learned), strict=True):
        torch.testing.assert_close(mine, slow, atol=1e-10, rtol=1e-6)


@pytest.mark.parametrize("make", PAIRS)
def test_training_moves_the_prompt_alone(make):
    model = prompted_encoder(PAIRS[make](), context=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source = Records([{"image": batch()["image"], "label": 0}], classes=NAMES)
    method = PromptTuning(model)
    method.begin(DataInfo.of(source))
    settings = {"steps": 8, "lr": 0.05, "warmup": 0, "progress": False, "report": False, "log_every": 1}
    run = nearfar.train(PromptTuning(model, classes=NAMES), [batch()], optimizer="sgd", **settings)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"context"}
    assert run.history[-1]["loss"] < run.history[0]["loss"]
    assert model.base == tuple(name.replace("_", " ") for name in NAMES)


def test_a_chunked_batch_gives_the_same_gradient():
    from nearfar.training.loop.gradients import backward

    gradients = []
    for chunk in (None, 2):
        method = PromptTuning(prompted_encoder(ours(), kind="maple", depth=2).double(), classes=NAMES)
        torch.manual_seed(1)
        torch.nn.init.normal_(method.model.deep.vectors)
        for each in method.model.deep.maps:
            torch.nn.init.ones_(each.weight)
        backward(method, batch(dtype=torch.float64), chunk=chunk)
        gradients.append(method.model.context.grad)
    torch.testing.assert_close(*gradients)


def test_what_is_refused():
    model = prompted_encoder(ours())
    for settings, words in [
        ({"classes": ["boat", "boat"]}, "two classes are called 'boat'"),
        ({"classes": ["boat " * 50, "red fox"]}, "shorten the name, or learn fewer vectors"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ]:
        with pytest.raises(UserError, match=words):
            PromptTuning(model, **settings)
    with pytest.raises(UserError, match="prompt_tuning trains a prompt, and this is a DualEncoder"):
        PromptTuning(ours())
    method = PromptTuning(model)
    with pytest.raises(UserError, match="knows no class names yet"):
        method(batch())
    with pytest.raises(UserError, match="names no classes, which prompt_tuning learns by"):
        method.begin(DataInfo(name="photos"))
    with pytest.raises(UserError, match="these data have no labels"):
        PromptTuning(model, classes=NAMES)({"image": batch()["image"]})
    with pytest.raises(UserError, match="a picture has the label 3, and there are names for 0 to 2"):
        PromptTuning(model, classes=NAMES)(batch() | {"label": torch.arange(6)})
