"""Matryoshka around a method: the method's own losses of cut embeddings, and a model that knows where it may be cut."""

import copy
import re

import pytest
import torch

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.methods import CLIP, Matryoshka, SigLIP
from nearfar.models import create
from nearfar.training.recipe import load, shipped

TEXTS = ["a red car", "two small dogs", "the old house", "a boat at sea"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 300)
    made = create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=8)
    return made.freeze("image", "text")  # no dropout: figures can be compared


@pytest.fixture
def batch(model):
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"image": pixels, "text": model.tokenize(TEXTS), "group": torch.tensor([0, 1, 1, 2])}


@pytest.mark.parametrize("name", ["clip", "siglip", "align", "negclip"])
def test_one_whole_width_is_the_method_as_it_is(model, batch, name):
    plain = nearfar.methods.find(name)(model)
    around = Matryoshka(model, of={"name": name}, dims=[8])
    assert torch.equal(around(batch)["loss"], plain(batch)["loss"])


def test_the_loss_is_the_weighted_sum_over_widths(model, batch):
    plain = CLIP(model, exclude_duplicates=True)
    around = Matryoshka(model, of={"name": "clip", "exclude_duplicates": True}, dims=[2, 8], weights=[3, 1])
    image, text = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    at = [
        plain.objective({"image": image[:, :d], "text": text[:, :d]}, {"group": batch["group"]})["loss"] for d in (2, 8)
    ]
    out = around(batch)
    torch.testing.assert_close(out["loss"], 3 * at[0] + at[1])
    torch.testing.assert_close((out["loss_at_2"], out["loss_at_8"]), (at[0].detach(), at[1].detach()))


def test_weights_are_in_the_state_once_and_a_copy_trains_its_own_model(model, batch):
    around = Matryoshka(model, of={"name": "clip"}, dims=[4, 8])
    assert {name.partition(".")[0] for name in around.state_dict()} == {"model", "member"}
    assert [name for name in around.state_dict() if name.startswith("member")] == ["member.loss.temperature.value"]
    twin = copy.deepcopy(around)
    with torch.no_grad():
        twin.model.text_projection.weight.zero_()
    assert not torch.equal(twin(batch)["loss"], around(batch)["loss"])


def test_the_model_learns_where_it_may_be_cut(model, batch):
    around = Matryoshka(model, of={"name": "siglip", "temperature": 0.2}, dims=[4, 8])
    assert around.learned() == SigLIP(model, temperature=0.2).learned()
    around.hand_over()
    assert (model.matryoshka, model.bias) == ((4, 8), -10.0)
    assert model.temperature == pytest.approx(0.2)


def test_a_training_keeps_more_in_the_first_numbers(tmp_path):
    """Sixteen things, of one colour each, at 2 of 16 numbers: what was trained there retrieves better there."""
    from PIL import Image

    names = [f"{a} {b}" for a in ("pale", "dark", "warm", "cold") for b in ("fox", "ship", "cat", "hill")]
    colours = [(60 * i % 256, 35 * i % 256, 90 * i % 256) for i in range(1, 17)]
    records = [{"image": Image.new("RGB", (32, 32), c), "text": n} for c, n in zip(colours, names, strict=True)]
    source = Records(records, name="colours")
    tokenizer = train_tokenizer(names * 9, 300)
    losses = {}
    for dims in ([16], [2, 16]):
        torch.manual_seed(0)
        model = create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=16)
        method = Matryoshka(model, of={"name": "clip"}, dims=dims)
        run = nearfar.train(method, source, steps=30, batch_size=16, lr=2e-3, out=tmp_path / str(dims), report=False)
        model = nearfar.load(tmp_path / str(dims) / "model")
        assert model.matryoshka == tuple(dims)
        image, text = (model.encode(x, convert_to_tensor=True) for x in ([r["image"] for r in records], names))
        losses[len(dims)] = nearfar.losses.InfoNCE(0.07)(image[:, :2], text[:, :2]).item()
        assert run.out
    assert losses[2] < losses[1]


def test_recipes_take_it(tmp_path):
    plain = shipped()["clip"].read_text("utf-8").replace("name: clip", "name: matryoshka")
    plain = re.sub(r"(method:\n  name: matryoshka\n)(  .*\n)*", r"\1  of: {name: clip}\n  dims: [64, 256]\n", plain)
    file = tmp_path / "short.yaml"
    file.write_text(plain)
    method = load(file).method
    assert (method["of"]["name"], method["dims"], method["weights"]) == ("clip", [64, 256], None)
    assert load(file, ["method.weights=[1,2]"]).method["weights"] == [1, 2]
    with pytest.raises(UserError, match=r"section method.of: no setting 'smoothing'"):
        load(file, ["method.of.smoothing=1"])


def test_what_does_not_fit_is_named(model):
    with pytest.raises(UserError, match=r"the embeddings of the model have 8 numbers"):
        Matryoshka(model, of={"name": "clip"}, dims=[4, 16])
    with pytest.raises(UserError, match="ALBEF does not"):
        Matryoshka(model, of={"name": "albef"}, dims=[4])
    with pytest.raises(UserError, match="ISogCLR keeps something of each sample"):
        Matryoshka(model, of={"name": "isogclr"}, dims=[4])
    with pytest.raises(UserError, match="around some method"):
        Matryoshka(model, of={}, dims=[4])
