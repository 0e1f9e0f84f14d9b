"""Several heads on one pair of towers: each trains as if it were alone, and the model gives their mean."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

import nearfar
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.methods.image_text.clip import CLIP
from nearfar.methods.image_text.ensemble import Ensemble
from nearfar.models import create, load

TEXTS = ["a red car", "two small dogs", "the old house", "a boat at sea"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 300)
    made = create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=8, image_projection="mlp", image_heads=3)
    return made.freeze("image", "text")  # no dropout: figures can be compared


@pytest.fixture
def batch(model):
    g = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, 32, 32, generator=g)
    return {"image": pixels, "text": model.tokenize(TEXTS), "group": torch.tensor([0, 1, 1, 2])}


def alone(model, head):
    """The same model with one of its heads in place of all."""
    made = copy.deepcopy(model)
    made.image_projection = made.image_projection[head]
    return made


def test_the_embedding_is_the_mean_of_the_heads_unit_vectors(model, batch):
    heads = [alone(model, head).encode_image(batch["image"], normalize=True) for head in range(3)]
    torch.testing.assert_close(model.encode_image(batch["image"]), sum(heads) / 3)
    torch.testing.assert_close(model.encode_image(batch["image"], normalize=True), normalize(sum(heads), dim=1))
    torch.testing.assert_close(model.encode_image(batch["image"], normalize=True, head=1), heads[1])


def test_every_head_has_the_loss_and_the_gradient_it_would_have_alone(model, batch):
    method = Ensemble(model, of={"name": "clip", "exclude_duplicates": True})
    losses = []
    for head in range(3):
        single = CLIP(alone(model, head), exclude_duplicates=True)
        losses.append(single(batch)["loss"])
        losses[-1].backward()
        model.zero_grad()
        method(batch)["loss"].backward()
        for mine, theirs in zip(
            model.image_projection[head].parameters(), single.model.image_projection.parameters(), strict=True
        ):
            torch.testing.assert_close(3 * mine.grad, theirs.grad)
    torch.testing.assert_close(method(batch)["loss"], sum(losses) / 3)


def test_weights_are_held_and_saved_once(model, batch, tmp_path):
    method = Ensemble(model, of={"name": "clip"})
    names = [name for name in method.state_dict() if not name.startswith("model.")]
    assert len(names) == 3
    assert all("temperature" in name for name in names)
    again = load(model.eval().save_pretrained(tmp_path))
    assert torch.equal(again.encode_image(batch["image"]), model.encode_image(batch["image"]))


def test_heads_start_apart_and_share_the_text_side(model, batch):
    assert not torch.equal(model.image_projection[0][0].weight, model.image_projection[1][0].weight)
    embeddings = Ensemble(model, of={"name": "siglip"}).embed(batch)
    assert torch.equal(embeddings["0.text"], embeddings["2.text"])
    assert not torch.equal(embeddings["0.image"], embeddings["2.image"])


def test_towers_run_once_a_batch(model, batch, monkeypatch):
    calls = []
    for tower in (model.image, model.text):
        forward = tower.forward
        monkeypatch.setattr(tower, "forward", lambda *a, f=forward, t=tower: (calls.append(t), f(*a))[1])
    Ensemble(model, of={"name": "clip"})(batch)
    assert calls == [model.image, model.text]


def test_trains_with_gradient_caching_to_the_same_weights(model, batch):
    loose = copy.deepcopy(model)
    for each, chunk in ((model, None), (loose, 2)):
        method = Ensemble(each, of={"name": "clip"})
        nearfar.train(method, [batch], steps=3, chunk=chunk, progress=False)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loose.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_hard_captions_reach_every_member(model, batch):
    hard = {**batch, "negative_text": model.tokenize(["a blue car", "two big dogs", "the new house", "a boat ashore"])}
    method = Ensemble(model, of={"name": "negclip"})
    assert "2.negative_text" in method.embed(hard)
    assert method(hard)["loss"] > method(batch)["loss"]


def test_what_does_not_fit_is_refused(model):
    with pytest.raises(UserError, match="image_heads"):
        Ensemble(alone(model, 0), of={"name": "clip"})
    with pytest.raises(UserError, match="by embeddings alone"):
        Ensemble(model, of={"name": "albef"})
    with pytest.raises(UserError, match="of some method"):
        Ensemble(model, of={"exclude_duplicates": True})
    with pytest.raises(UserError, match="no method"):
        Ensemble(model, of={"name": "clap"})


@pytest.mark.parametrize(("heads", "kind"), [(0, "mlp"), (2, "none")])
def test_heads_that_cannot_be(heads, kind, model):
    with pytest.raises(UserError, match="image_heads"):
        create("tiny", tokenizer=model.tokenizer, image_projection=kind, image_heads=heads)
