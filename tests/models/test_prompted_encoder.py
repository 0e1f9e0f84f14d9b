"""A learned prompt around a frozen model: where its vectors stand, what they change, saved and opened again."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

import nearfar
from models.prompted_pairs import NAMES, PAIRS, ours
from nearfar.classifiers import ZeroShotClassifier, class_prototypes
from nearfar.data.fields.text import train_tokenizer
from nearfar.errors import UserError
from nearfar.models import PromptedEncoder, create, prompted_encoder
from nearfar.models.prompts.prompt_layout import PromptLayout
from nearfar.models.towers.tokens import tokenize

PLAIN = [name.replace("_", " ") for name in NAMES]


@pytest.fixture(scope="module", params=PAIRS)
def pair(request):
    return PAIRS[request.param]()


@torch.no_grad()
def texts(model, names=NAMES):
    return model.encode_text(model.tokenize(names), normalize=True)


def test_untrained_it_is_the_pair_with_the_template(pair):
    """Oracle 10: also beside names of other lengths, whose padding is read by nobody."""
    by_hand = F.normalize(pair.encode_text(pair.tokenize([f"a photo of a {name}." for name in PLAIN])), dim=-1)
    torch.testing.assert_close(texts(prompted_encoder(pair)), by_hand, atol=1e-5, rtol=0)
    torch.testing.assert_close(texts(prompted_encoder(pair), [NAMES[2]]), by_hand[2:], atol=1e-5, rtol=0)
    cocoop = prompted_encoder(pair, kind="cocoop")
    image = torch.randn(2, pair.embed_dim)
    with torch.no_grad():
        assert not torch.allclose(cocoop.class_texts(cocoop.tokenize(NAMES), image)[0], by_hand, atol=1e-4)
        for parameter in cocoop.meta.parameters():
            parameter.zero_()
        for own in cocoop.class_texts(cocoop.tokenize(NAMES), image):
            torch.testing.assert_close(own, by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("position", "sentence"), [("front", "red fox a photo of a."), ("middle", "a photo red fox of a.")]
)
def test_the_name_stands_where_it_is_put(pair, position, sentence):
    model = prompted_encoder(pair, position=position)
    assert model.layout.count == 4
    by_hand = F.normalize(pair.encode_text(pair.tokenize([sentence])), dim=-1)
    torch.testing.assert_close(texts(model, ["red fox"]), by_hand, atol=1e-5, rtol=0)


def test_the_vectors_alone_are_trained_and_change_texts_alone(pair):
    model = prompted_encoder(pair, context=3).train()
    assert {name for name, each in model.named_parameters() if each.requires_grad} == {"context"}
    assert not any(module.training for module in model.pair.modules())
    pixels, before = torch.randn(2, 3, 16, 16), texts(model)
    pictures = model.encode_image(pixels)
    model.class_cosines(pictures, model.tokenize(NAMES)).square().sum().backward()
    assert model.context.grad.abs().sum() > 0
    with torch.no_grad():
        model.context.add_(torch.randn_like(model.context))
    assert not torch.allclose(texts(model), before, atol=1e-4)
    assert torch.equal(model.encode_image(pixels), pictures)
    plain = model.pair.tokenize(PLAIN)
    assert torch.equal(model.encode_text(plain), model.pair.encode_text(plain)), "without places it is a plain text"


def test_noise_starts_the_vectors_where_no_words_do():
    torch.manual_seed(0)
    model = prompted_encoder(ours(), words=None)
    assert model.context.shape == (16, 24)
    assert 0.017 < model.context.std() < 0.023
    assert prompted_encoder(ours(), words=None, context=2).context.shape == (2, 24)


def test_a_prompt_for_each_class_names_no_others():
    model = prompted_encoder(ours(), class_names=NAMES)
    assert model.context.shape == (3, model.layout.count, 24)
    shared = texts(prompted_encoder(ours()))
    torch.testing.assert_close(texts(model), shared)
    with torch.no_grad():
        model.context[1].normal_()
    changed = texts(model, ["boat", "small dog"])
    torch.testing.assert_close(changed[0], shared[2])
    assert not torch.allclose(changed[1], shared[1], atol=1e-3)
    with pytest.raises(UserError, match="'cat' has no vectors of its own: this prompt learned one for each of its 3"):
        model.tokenize(["cat"])


def test_a_picture_of_cocoop_has_texts_of_its_own(monkeypatch):
    model = prompted_encoder(ours(), kind="cocoop", hidden=5)
    assert [tuple(each.weight.shape) for each in (model.meta[0], model.meta[2])] == [(5, 8), (24, 5)]
    image, tokens = torch.randn(5, 8), model.tokenize(NAMES)
    with torch.no_grad():
        whole = model.class_texts(tokens, image)
        monkeypatch.setattr("nearfar.models.prompts.prompted_encoder.AT_ONCE", 7)
        torch.testing.assert_close(model.class_texts(tokens, image), whole)
        torch.testing.assert_close(model.class_texts(tokens, 3 * image), whole)
        shift = model.meta(F.normalize(image[1:2], dim=1))
        before = model.context.clone()
        model.context.add_(shift)  # one vector for all tokens of the context
        torch.testing.assert_close(whole[1], texts(model))
        model.context.copy_(before)
        cosines = model.class_cosines(image, tokens)
    torch.testing.assert_close(cosines[2], whole[2] @ F.normalize(image[2], dim=0))


@pytest.mark.parametrize("kind", ["coop", "cocoop", "maple"])
def test_it_is_opened_as_it_was_saved(kind, tmp_path):
    model = prompted_encoder(ours(), kind=kind, depth=2, context=2, position="middle").eval()
    model.base = ("red fox", "boat")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    opened = nearfar.load(model.save_pretrained(tmp_path / "saved"))
    assert type(opened) is PromptedEncoder
    assert opened.made_of() == model.made_of()
    assert opened.base == ("red fox", "boat")
    assert torch.equal(texts(opened), texts(model))
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(opened.encode_image(pixels), model.encode_image(pixels))
    assert not any(each.requires_grad for each in opened.pair.parameters())
    classifier = ZeroShotClassifier(opened, templates="{}").fit(["boat", "red fox", "a class of later"])
    torch.testing.assert_close(classifier.prototypes_[:2], texts(model, ["boat", "red fox"]))
    torch.testing.assert_close(class_prototypes(opened, NAMES, templates="name"), texts(model))


def test_the_prompt_alone_is_kept_around_an_open_clip_model(tmp_path):
    model = prompted_encoder(PAIRS["open_clip"](), context=3)
    with torch.no_grad():
        model.context.normal_()
    model.save_pretrained(tmp_path / "prompt")  # as training does at its end
    assert [path.name for path in (tmp_path / "prompt").iterdir()] == ["prompt.safetensors"]
    assert (tmp_path / "prompt" / "prompt.safetensors").stat().st_size < 1000
    other = prompted_encoder(PAIRS["open_clip"](), context=3).load_prompt(tmp_path / "prompt")
    assert torch.equal(texts(other), texts(model))
    with pytest.raises(UserError, match="does not fit this model"):
        prompted_encoder(PAIRS["open_clip"](), context=2).load_prompt(tmp_path / "prompt")
    with pytest.raises(UserError, match="cannot be read"):
        other.load_prompt(tmp_path)


def test_a_config_with_a_wrong_prompt_is_refused(tmp_path):
    folder = prompted_encoder(ours(), context=2).save_pretrained(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    for key, value in {"kind": "vpt", "context": 0, "depth": -1, "position": "left", "module": "os"}.items():
        changed = {**config, "prompt": {**config["prompt"], key: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"config\.json: prompt is"):
            nearfar.load(folder)


def test_long_names_are_cut_as_texts_are_and_classes_refused():
    model = prompted_encoder(ours(), context=4)
    long = "red fox " * 30
    tokens = model.tokenize([long, "boat"])
    assert tokens["attention_mask"].sum(1).tolist()[0] == model.max_length == 40
    assert tokens["input_ids"][0, -1] == tokens["input_ids"][1][tokens["attention_mask"][1] == 1][-1], "the end stays"
    with pytest.raises(UserError, match=r"has .* tokens, and beside 4 vectors the text tower reads"):
        model.layout.check(["boat", long])
    with pytest.raises(UserError, match="a class is called ' '"):
        model.layout.check([" "])
    assert model.tokenize([])["input_ids"].shape[0] == 0


def test_what_is_refused():
    for settings, words in [
        ({"kind": "vpt"}, "no kind of prompt 'vpt'"),
        ({"context": 0}, "context is 0: learn at least one vector"),
        ({"context": 9}, "'a photo of a' has 4 tokens for 9 vectors"),
        ({"position": "left"}, "position is 'left': choose one of end, middle, front"),
        ({"kind": "cocoop", "class_names": NAMES}, "which cocoop has not: choose coop"),
        ({"class_names": ["a_b", "a b"]}, "class_names holds a name twice"),
    ]:
        with pytest.raises(UserError, match=words):
            prompted_encoder(ours(), **settings)
    with pytest.raises(UserError, match="a learned prompt goes with a DualEncoder"):
        prompted_encoder(nearfar.models.image_encoder("micro-resnet"))
    with pytest.raises(UserError, match=r"not one name: write \[name\]"):
        prompted_encoder(ours()).tokenize("boat")
    glued = SimpleNamespace(words=train_tokenizer(["a red fox"], 300))
    with pytest.raises(UserError, match="this tokenizer joins a name with the word before it"):
        PromptLayout(lambda each: tokenize(glued.words, [text.replace("a ", "b") for text in each], 32), 2)(["fox"])


def test_pictures_can_be_computed_ahead():
    pair = create("tiny", tokenizer=train_tokenizer(NAMES, 300)).eval()
    model = prompted_encoder(pair, context=2)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_image(pair.image_summary(pixels)), model.encode_image(pixels))
    assert model.frozen == ("image", "image_projection")
