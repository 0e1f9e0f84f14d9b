"""Encoders side by side as one model (MCL): cosine of the parts, only the newest trained, saved and loaded."""

import json
import math

import pytest
import torch
from PIL import Image

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.models import ConcatDualEncoder, ConcatImageEncoder, concatenated, create, image_encoder
from nearfar.models.concat_encoder import appended

TEXTS = ["a red square", "a blue circle", "a green star"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def picture_parts(count=2, *, seed=0, **projector):
    torch.manual_seed(seed)
    settings = {"hidden": 12, "out": 6} | projector
    return [image_encoder("micro-resnet", projector=settings).eval() for _ in range(count)]


def pair_parts(tokenizer, count=2, *, seed=0, **settings):
    torch.manual_seed(seed)
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small = {"intermediate_size": 32}
    made = {"image": vit | small, "text": bert | small | {"max_position_embeddings": 32}, "image_size": 16}
    return [create(tokenizer=tokenizer, embed_dim=8, **made | settings).eval() for _ in range(count)]


class Fixed(torch.nn.Module):
    """Gives one embedding whatever it is shown."""

    def __init__(self, image, text):
        super().__init__()
        self.image, self.text = torch.tensor([image]), torch.tensor([text])

    def encode_image(self, pixels):
        return self.image

    def encode_text(self, tokens):
        return self.text


def pixels(size=32, count=3):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def cosine(model):
    return (model.encode_image(None, normalize=True) * model.encode_text(None, normalize=True)).sum().item()


def of_fixed(parts, **settings):
    """A concatenation of parts that are no towers, by its arithmetic alone."""
    model = ConcatDualEncoder.__new__(ConcatDualEncoder)
    torch.nn.Module.__init__(model)
    model.parts = torch.nn.ModuleList(parts)
    model.normalize, model.weights = settings.get("normalize", "joint"), settings.get("weights")
    return model


def test_the_cosine_by_hand():
    """Parts (3, 4) and (1, 0) of the picture, (0, 1) and (1, 0) of the text."""
    parts = [Fixed([3.0, 4.0], [0.0, 1.0]), Fixed([1.0, 0.0], [1.0, 0.0])]
    assert cosine(of_fixed(parts)) == pytest.approx(5 / math.sqrt(52), abs=1e-6)
    assert cosine(of_fixed(parts)) == pytest.approx(0.693375, abs=1e-6)
    assert cosine(of_fixed(parts, normalize="each")) == pytest.approx(0.9, abs=1e-6)
    assert cosine(of_fixed(parts, normalize="each", weights=[1.0, 3.0])) == pytest.approx(0.25 * 0.8 + 0.75, abs=1e-6)
    assert cosine(of_fixed(parts[::-1])) == pytest.approx(cosine(of_fixed(parts)), abs=1e-7), "in both, another order"
    assert cosine(of_fixed([*parts, *parts])) == pytest.approx(cosine(of_fixed(parts)), abs=1e-7), "all of them twice"
    assert cosine(of_fixed([*parts, parts[0]])) != pytest.approx(cosine(of_fixed(parts)), abs=1e-3), "one of them twice"


def test_a_part_with_longer_embeddings_counts_for_more():
    """With equal text parts, cos = sum a_k cos_k / (sqrt(n) sqrt(sum a_k^2)): why `normalize="each"` is there."""
    cosines, lengths = (0.8, 0.2), (5.0, 1.0)
    parts = [Fixed([a * c, a * math.sqrt(1 - c * c)], [1.0, 0.0]) for c, a in zip(cosines, lengths, strict=True)]
    expected = sum(a * c for c, a in zip(cosines, lengths, strict=True)) / (math.sqrt(2) * math.sqrt(26))
    assert cosine(of_fixed(parts)) == pytest.approx(expected, abs=1e-6)
    assert cosine(of_fixed(parts, normalize="each")) == pytest.approx(0.5, abs=1e-6)


def test_one_part_is_that_model_to_the_bit(tokenizer):
    for part, size in ((picture_parts(1)[0], 32), (pair_parts(tokenizer, 1)[0], 16)):
        one = concatenated([part])
        assert torch.equal(one.encode_image(pixels(size)), part.encode_image(pixels(size)))
        assert torch.equal(one(pixels(size)), part.encode_image(pixels(size), normalize=True))
    tokens = part.tokenize(TEXTS)
    assert torch.equal(one.encode_text(tokens, normalize=True), part.encode_text(tokens, normalize=True))


def test_only_the_newest_part_is_trained():
    model = concatenated(picture_parts(3)).train()
    assert [part.training for part in model.parts] == [False, False, True]
    assert [any(p.requires_grad for p in part.parameters()) for part in model.parts] == [False, False, True]
    norm = next(m for m in model.parts[0].modules() if isinstance(m, torch.nn.BatchNorm2d))
    before = norm.running_mean.clone()
    model.project_image(pixels()).sum().backward()
    model.encode_image(pixels())
    assert torch.equal(norm.running_mean, before)
    assert model.projected_dim == 6
    assert model.embed_dim == 3 * model.parts[0].embed_dim


@pytest.mark.parametrize("start", ["scratch", "base", "previous"])
def test_what_the_next_part_starts_with(start, tokenizer):
    first, second = pair_parts(tokenizer)
    first.temperature = second.temperature = 0.03
    first.freeze("text")
    model = appended(concatenated([first, second]), start)
    fresh = model.newest
    assert len(model.parts) == 3
    same = [
        all(torch.equal(v, part.state_dict()[n]) for n, v in fresh.state_dict().items()) for part in (first, second)
    ]
    assert same == [start == "base", start == "previous"]
    assert fresh.frozen == (("text",) if start == "base" else ())
    assert all(p.requires_grad != n.startswith("text.") or start != "base" for n, p in fresh.named_parameters())
    assert model.temperature == (None if start == "scratch" else 0.03)
    assert fresh is not first
    assert fresh.tokenizer is first.tokenizer


def test_with_a_frozen_text_tower_all_parts_read_texts_alike(tokenizer):
    first = pair_parts(tokenizer, 1)[0]
    model = appended(first, "base")
    model.newest.freeze("text", "text_projection")
    tokens = first.tokenize(TEXTS)
    (model.newest.encode_image(pixels(16)).sum() + model.newest.encode_text(tokens).sum()).backward()
    assert all(p.grad is None for name, p in model.newest.named_parameters() if name.startswith("text"))
    base, whole = first.encode_text(tokens), model.encode_text(tokens)
    assert torch.equal(whole, torch.cat([base, base], 1))


@pytest.mark.parametrize("settings", [{}, {"normalize": "each", "weights": [1.0, 2.5]}])
def test_saved_and_loaded_it_is_the_same(settings, tokenizer, tmp_path):
    for name, parts, size in (("a", picture_parts(), 32), ("b", pair_parts(tokenizer), 16)):
        model = concatenated(parts, **settings)
        if name == "b":
            model.newest.add_lora("image", rank=2)
            model.temperature = 0.05
        model.save_pretrained(tmp_path / name)
        loaded = nearfar.load(tmp_path / name)
        assert type(loaded) is type(model)
        assert (loaded.normalize, loaded.weights) == (model.normalize, model.weights)
        assert torch.equal(loaded.eval().encode_image(pixels(size)), model.eval().encode_image(pixels(size)))
    assert loaded.temperature == 0.05
    assert loaded.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    tokens = model.tokenize(TEXTS)
    assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))
    assert not loaded.parts[0].adapters
    assert loaded.newest.adapters["image"]["rank"] == 2


def test_it_is_evaluated_indexed_and_searched(tokenizer, tmp_path):
    from nearfar import search
    from nearfar.evaluation import evaluate

    model = concatenated(pair_parts(tokenizer))
    for i, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{i}.png")
    source = Records([{"image": tmp_path / f"{i}.png", "text": text} for i, text in enumerate(TEXTS)], name="squares")
    assert evaluate(model, source, ["retrieval"])["retrieval"]["text_to_image_R@1"] >= 0
    model.save_pretrained(tmp_path / "model")
    search.build(nearfar.load(tmp_path / "model"), source, tmp_path / "index", model=str(tmp_path / "model"))
    index = search.Index(tmp_path / "index")
    assert len(index) == 3


def test_files_that_are_not_whole(tmp_path):
    concatenated(picture_parts()).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def changed(change):
        other = json.loads(json.dumps(config))
        change(other)
        (tmp_path / "config.json").write_text(json.dumps(other))
        with pytest.raises(UserError) as error:
            nearfar.load(tmp_path)
        return str(error.value)

    assert "parts is []" in changed(lambda c: c.update(parts=[]))
    assert "normalize is 'both'" in changed(lambda c: c.update(normalize="both"))
    assert "weights is [0]" in changed(lambda c: c.update(weights=[0]))
    assert "has no 'image'" in changed(lambda c: c["parts"][1].pop("image"))
    assert "which a ImageEncoder has not" in changed(lambda c: c["parts"][0].update(parts=[{}]))
    assert "architecture" in changed(lambda c: c["parts"][1]["image"]["spec"].pop("architecture"))
    assert "does not fit" in changed(lambda c: c["parts"].pop())


def test_what_does_not_fit(tokenizer):
    pair, picture = pair_parts(tokenizer, 1)[0], picture_parts(1)[0]
    with pytest.raises(UserError, match="at least one part"):
        concatenated([])
    with pytest.raises(UserError, match="all ImageEncoder or all DualEncoder, not ImageEncoder"):
        concatenated([pair, picture])
    with pytest.raises(UserError, match="read pictures differently"):
        concatenated([picture, image_encoder("tiny-resnet")])
    other = pair_parts(train_tokenizer(["nothing like it"], 280), 1)[0]
    with pytest.raises(UserError, match="read texts differently"):
        concatenated([pair, other])
    with pytest.raises(UserError, match="choose joint or each"):
        concatenated([picture], normalize="none")
    with pytest.raises(UserError, match=r"weights=\[1.0\]: give 2"):
        concatenated(picture_parts(), weights=[1.0])
    with pytest.raises(UserError, match="append='anew': choose scratch, base, previous"):
        appended(picture, "anew")
    assert isinstance(concatenated([concatenated(picture_parts()), picture]), ConcatImageEncoder)
