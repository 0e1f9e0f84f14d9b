"""Sounds and texts in one space: padding changes nothing, folders, training, embedding, and what is refused."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

import nearfar
from nearfar.data import Records, train_tokenizer
from nearfar.embedding import embed
from nearfar.embedding.embed_source import embeds
from nearfar.errors import UserError
from nearfar.methods import CLIP, SigLIP
from nearfar.models import SoundEncoder, shortened, sound_encoder
from nearfar.models.sound.sound_tower import SoundTower, masked_mean

TEXTS = ["a low tone", "a high tone"]
SMALL = {"width": 32, "layers": 1, "heads": 2, "embed_dim": 16, "mels": 16, "max_seconds": 1.0}


def tone(high, seed=0, seconds=0.2, rate=16000):
    chance = np.random.default_rng(seed)
    hertz = (2000 if high else 250) * chance.uniform(0.9, 1.1)
    samples = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    return samples * chance.uniform(0.1, 0.9) + chance.normal(0, 0.02, len(samples)), rate


def tones(count=16, seed=0):
    rows = [
        {"audio": tone(i % 2, seed + i, 0.1 + 0.02 * (i % 4)), "text": TEXTS[i % 2], "label": i % 2, "group": i % 2}
        for i in range(count)
    ]
    return Records(rows, name="tones", classes=TEXTS)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return sound_encoder(tokenizer=train_tokenizer(TEXTS, 300), **SMALL).eval()


def test_what_lies_beside_a_sound_changes_nothing(model):
    sounds = [tone(0, 1, 0.11), tone(1, 2, 0.5), tone(0, 3, 0.013)]
    together = model.encode_audio(model.preprocess_audio(sounds))
    for row, sound in enumerate(sounds):
        alone = model.encode_audio(model.preprocess_audio([sound]))[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)
    batch = model.preprocess_audio(sounds)
    changed = deepcopy(dict(batch))
    changed["input_features"][batch["attention_mask"] == 0] = 7.0
    torch.testing.assert_close(model.encode_audio(changed), together, rtol=1e-4, atol=1e-5)
    unmasked = {"input_features": batch["input_features"]}
    assert not torch.allclose(model.encode_audio(unmasked), together, atol=1e-3)


def test_states_and_their_mask():
    tower = SoundTower(8, width=16, layers=1, heads=2)
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    states, kept = tower({"input_features": torch.rand(2, 9, 8), "attention_mask": mask})
    assert (states.shape, kept.sum(1).tolist()) == ((2, 3, 16), [3, 2])
    assert torch.equal(masked_mean(states, kept)[1], states[1, :2].mean(0))
    with pytest.raises(UserError, match=r"\[B, frames, 8\] here; these are \[2, 9, 4\]"):
        tower({"input_features": torch.rand(2, 9, 4)})
    for settings, words in (({"width": 18, "heads": 4}, "an even share of the width"), ({"layers": 0}, "layers is 0")):
        with pytest.raises(UserError, match=words):
            SoundTower(8, **settings)


def test_a_saved_model_opens_with_the_same_embeddings(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    again = nearfar.load(tmp_path / "m")
    assert isinstance(again, SoundEncoder)
    assert (again.log_mel, again.max_seconds, again.max_length) == (model.log_mel, 1.0, model.max_length)
    audio, tokens = model.preprocess_audio([tone(1)]), model.tokenize(TEXTS)
    assert torch.equal(again.encode_audio(audio), model.encode_audio(audio))
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert "Sounds and texts in one space" in (tmp_path / "m" / "README.md").read_text()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("log_mel", "mels", 2**20),
        ("log_mel", "scale", "mel"),
        ("log_mel", "colour", 1),
        ("sound", "layers", 2**20),
        ("sound", "width", 33),
        ("sound", "dropout", "much"),
    ],
)
def test_a_damaged_config_is_refused(model, tmp_path, part, key, value):
    file = model.save_pretrained(tmp_path / "m") / "config.json"
    config = json.loads(file.read_text())
    config[part][key] = value
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json"):
        nearfar.load(tmp_path / "m")


def test_sounds_are_embedded_as_pictures_are(model):
    data = embed(model, tones(6))
    assert set(data.sides) == {"audio", "text"}
    assert data.sides["audio"].vectors.shape == (6, 16)
    by_hand = model.encode_audio(model.preprocess_audio([tone(1, 1, 0.12)]), normalize=True)
    torch.testing.assert_close(data.sides["audio"].vectors[1], by_hand[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [CLIP, SigLIP])
def test_methods_on_pairs_train_it(model, method):
    torch.manual_seed(0)
    start = deepcopy(model).train()
    quiet = {"progress": False, "report": False, "warmup": 0, "schedule": "constant"}
    trained = nearfar.train(method(start), tones(), steps=40, batch_size=8, lr=3e-3, **quiet).model.eval()
    test = tones(20, seed=100)
    data = embed(trained, test)
    names = trained.encode_text(trained.tokenize(TEXTS), normalize=True)
    right = (data.sides["audio"].vectors @ names.T).argmax(1) == torch.tensor(test.column("label"))
    assert right.float().mean() > 0.9


def test_what_the_maker_refuses():
    with pytest.raises(UserError, match="has no tokenizer: pass"):
        sound_encoder()
    with pytest.raises(UserError, match="choose one of none, loudest, bands"):
        sound_encoder(tokenizer=train_tokenizer(TEXTS, 300), normalise="all")


def test_cut_embeddings_are_of_sounds_too(model):
    short = shortened(model, 4)
    assert embeds(short) == embeds(model) == ["text", "audio"]
    assert embed(short, tones(4)).sides["audio"].vectors.shape == (4, 4)
