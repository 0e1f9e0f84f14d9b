"""An exported folder opened as a model: the embeddings of the model that it was exported from, and nothing else."""

import copy
import json
import pickle
import re
import shutil
import types

import numpy as np
import pytest
import torch

import nearfar
from nearfar.adaptation import adapt
from nearfar.embedding.blocks.embed_blocks import weights_digest
from nearfar.embedding.embed_source import embeds
from nearfar.errors import UserError
from nearfar.models.exported import onnx_folder
from nearfar.models.exported.onnx_encoder import OnnxDualEncoder, OnnxImageEncoder, OnnxTextEncoder
from nearfar.models.shorter import shortened
from nearfar.search.index.identity import fingerprint

LENGTHS = [*range(1, 45), 300]


@pytest.fixture(scope="module")
def twin(exported):
    return nearfar.load(exported)


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the folder to damage."""
    return shutil.copytree(exported, tmp_path / "copied")


def changed(folder, **values):
    file = folder / "preprocess.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_texts_of_every_length_are_embedded_alike(twin, exported_model, texts):
    written = [*texts, *(" ".join(["fox"] * length) for length in LENGTHS), "", " ", "\ud800", "caf\xe9 \N{DOG}"]
    ours, theirs = twin.tokenize(written), exported_model.tokenize(written)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    own = exported_model.encode(written, normalize_embeddings=True)
    np.testing.assert_allclose(twin.encode(written), own, atol=1e-5)
    np.testing.assert_allclose(twin.encode(written, batch_size=1), own, atol=1e-5)
    assert twin.encode("ship").shape == (16,)
    assert twin.encode([]).shape == (0, 16)
    assert {value.shape for value in twin.tokenize([]).values()} == {(0, 0)}
    assert twin.encode_text(twin.tokenize([])).shape == (0, 16)


def test_pictures_of_odd_shapes_and_modes_are_embedded_alike(twin, exported_model, pictures):
    assert torch.equal(twin.preprocess(pictures), exported_model.preprocess(pictures))
    own = exported_model.encode(pictures, normalize_embeddings=True)
    np.testing.assert_allclose(twin.encode(pictures), own, atol=1e-5)
    np.testing.assert_allclose(twin.encode(pictures[3]), own[3], atol=1e-5)


def test_it_knows_what_the_model_knew(twin, exported_model):
    assert type(twin) is OnnxDualEncoder
    assert not twin.training
    assert (twin.embed_dim, twin.max_length, twin.image_size) == (16, 40, 32)
    assert (twin.temperature, twin.bias, twin.matryoshka) == (pytest.approx(0.05), None, (8, 16))
    assert (twin.mean, twin.std) == (exported_model.mean, exported_model.std)
    np.testing.assert_allclose(fingerprint(twin), fingerprint(exported_model), atol=1e-5)


def test_it_is_cut_as_the_model_is(twin, exported_model, texts):
    own = shortened(exported_model, 8).encode(texts, normalize_embeddings=True)
    assert own.shape == (4, 8)
    np.testing.assert_allclose(shortened(twin, 8).encode(texts, normalize_embeddings=True), own, atol=1e-5)
    np.testing.assert_allclose(twin.encode(texts, dim=8, normalize_embeddings=True), own, atol=1e-5)


def test_a_model_without_a_temperature(copied, texts, twin):
    changed(copied, temperature=None)
    made = nearfar.load(copied)
    assert made.temperature is None
    np.testing.assert_array_equal(made.encode(texts), twin.encode(texts))


def test_a_model_with_a_bias(copied):
    changed(copied, bias=-10.5)
    assert nearfar.load(copied).bias == -10.5


def test_texts_are_padded_with_the_token_that_the_constants_state(copied):
    changed(copied, text={"max_length": 40, "pad_id": 7})
    tokens = nearfar.load(copied).tokenize(["ship", "a red fox and a ship"])
    padded = tokens["attention_mask"] == 0
    assert padded[0].any()
    assert tokens["input_ids"][padded].eq(7).all()


def test_pixels_in_any_precision_are_taken(twin, pictures):
    pixels = twin.preprocess(pictures[:2])
    assert torch.equal(twin.encode_image(pixels.double()), twin.encode_image(pixels))


def test_a_folder_of_an_earlier_export_opens(copied, texts, twin):
    held = json.loads((copied / "preprocess.json").read_text())
    old = {key: value for key, value in held.items() if key not in ("exported_from", "tokenizer_sum", "matryoshka")}
    (copied / "preprocess.json").write_text(json.dumps(old))
    made = nearfar.load(str(copied))
    assert made.matryoshka == ()
    np.testing.assert_array_equal(made.encode(texts), twin.encode(texts))


def test_models_of_one_side(exported, one_sided, texts, pictures):
    twins = {}
    for side, kind, inputs in (("text", OnnxTextEncoder, texts), ("image", OnnxImageEncoder, pictures)):
        made, model = nearfar.load(exported.parent / f"{side}-onnx"), one_sided[side]
        assert type(made) is kind
        assert embeds(made) == embeds(model)
        np.testing.assert_allclose(made.encode(inputs), model.encode(inputs, normalize_embeddings=True), atol=1e-5)
        twins[side] = made
    assert twins["text"].max_length == 12
    with pytest.raises(UserError, match="input 0 is a picture, and a OnnxTextEncoder reads texts alone"):
        twins["text"].encode(pictures)


def test_copies_open_the_files_anew(twin, texts):
    for made in (copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))):
        np.testing.assert_array_equal(made.encode(texts), twin.encode(texts))


def test_another_tower_is_another_model(twin, copied):
    first = weights_digest(nearfar.load(copied))
    assert first == weights_digest(twin)
    with (copied / "text.onnx").open("r+b") as file:
        file.seek(-20_000, 2)
        byte = file.read(1)
        file.seek(-20_000, 2)
        file.write(bytes([byte[0] ^ 1]))
    assert weights_digest(nearfar.load(copied)) != first


def test_it_runs_on_as_many_threads_as_torch(exported, monkeypatch):
    import onnxruntime

    taken = []

    def session(path, options, **settings):
        spins = options.get_session_config_entry("session.intra_op.allow_spinning")
        taken.append((options.intra_op_num_threads, options.inter_op_num_threads, spins))
        return plain(path, options, **settings)

    plain = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        nearfar.load(exported)
    finally:
        torch.set_num_threads(threads)
    assert taken == [(3, 1, "0")] * 2


def test_it_is_not_trained_and_says_what_is(twin):
    with pytest.raises(UserError, match="which only embed: train the one that they were exported from, 'mine'"):
        twin.train()
    with pytest.raises(UserError, match="only embed: adapt the one that they were exported from, 'mine'"):
        adapt("world/emoji", model=twin)
    assert not twin.training


def test_inputs_that_do_not_fit_are_refused(twin):
    with pytest.raises(UserError, match="write \\[text\\]"):
        twin.tokenize("ship")
    with pytest.raises(UserError, match=r"pixels \(1, 3, 31, 32\), and this model takes \(B, 3, 32, 32\)"):
        twin.encode_image(torch.zeros(1, 3, 31, 32))
    with pytest.raises(UserError, match=r"pixels \(1, 3, 32, 31\), and this model takes \(B, 3, 32, 32\)"):
        twin.encode_image(torch.zeros(1, 3, 32, 31))
    with pytest.raises(UserError, match="41 tokens, and this model takes 40 at most"):
        twin.encode_text({name: torch.ones(1, 41).long() for name in ("input_ids", "attention_mask")})
    with pytest.raises(UserError, match=r"text\.onnx does not run .its operations do not go with these inputs"):
        twin.encode_text({name: torch.full((1, 4), 10**6) for name in ("input_ids", "attention_mask")})


@pytest.mark.parametrize("shape", [(1, 16), (2, 15), (2, 16, 1)])
def test_a_tower_that_gives_other_numbers_than_it_states_is_refused(twin, monkeypatch, shape):
    other = types.SimpleNamespace(run=lambda *_: [np.ones(shape, np.float32)])
    monkeypatch.setitem(twin._towers, "text", other)
    with pytest.raises(UserError, match=rf"text\.onnx gives {re.escape(str(shape))} numbers for 2 inputs: copy it"):
        twin.encode_text(twin.tokenize(["ship", "fox"]))


def test_a_missing_package_names_the_extra(exported, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r'this needs the package .onnxruntime.: pip install "nearfar\[onnx\]"'):
        nearfar.load(exported)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "tokenizer.json", "preprocess.json"])
def test_a_file_that_is_missing_or_damaged_is_named(copied, name):
    (copied / name).write_bytes(b"no such thing" * 9)
    with pytest.raises(UserError, match=rf"{name} .*export the model anew \(nearfar export MODEL --onnx --out DIR\)"):
        nearfar.load(copied)
    (copied / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing: copy it from where it was exported, or export"):
        nearfar.load(copied)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"embed_dim": 17}, "image.onnx does not go with preprocess.json beside it"),
        ({"embed_dim": "wide"}, "embed_dim is 'wide', which it cannot be"),
        ({"temperature": -1}, "temperature is -1, which it cannot be"),
        ({"pixels": {"size": 31}}, "image.onnx does not go with preprocess.json beside it"),
        ({"pixels": {"size": 32, "fit": "stretch"}}, "does not say how pictures and texts are prepared"),
        ({"pixels": {"mean": [0, 0, 0]}}, "does not say how pictures and texts are prepared"),
        ({"text": {"pad_id": 0}}, "does not say how pictures and texts are prepared"),
        ({"pixels": {"size": 32, "mean": [0.5, 0.5]}}, "pixels.mean is \\[0.5, 0.5\\], which it cannot be"),
        ({"text": {"max_length": 0}}, "text.max_length is 0, which it cannot be"),
        ({"text": {"max_length": 40, "pad_id": -1}}, "text.pad_id is -1, which it cannot be"),
        ({"text": {"max_length": 40, "truncate": True}}, "unknown key 'text.truncate'"),
        ({"network": "mine:Net"}, "unknown key 'network'"),
        ({"tokenizer_sum": "0" * 64}, "tokenizer.json is not the tokenizer that the towers were exported with"),
        ([], "holds a list, not an object"),
    ],
)
def test_constants_that_cannot_be_are_named(copied, values, sentence):
    if isinstance(values, dict):
        changed(copied, **values)
    else:
        (copied / "preprocess.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=sentence):
        nearfar.load(copied)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("{}", "has no 'embed_dim'"),
        ('{"embed_dim": 16}', "has no 'pixels'"),
        ('{"temperature": ' + "[" * 100_000 + "]" * 100_000 + "}", r"is not valid JSON \(.*\): copy it from where"),
    ],
)
def test_constants_of_no_model_are_named(copied, written, sentence):
    (copied / "preprocess.json").write_text(written)
    with pytest.raises(UserError, match=rf"preprocess\.json {sentence}"):
        nearfar.load(copied)


def test_constants_as_large_as_weights_are_not_read(copied, monkeypatch):
    monkeypatch.setattr(onnx_folder, "MOST", 10)
    with pytest.raises(UserError, match=r"preprocess\.json is larger than any that nearfar writes"):
        nearfar.load(copied)


def test_towers_of_two_kinds_do_not_go_together(copied):
    shutil.copy(copied / "image.onnx", copied / "text.onnx")
    with pytest.raises(UserError, match=r"text\.onnx does not go with preprocess.json beside"):
        nearfar.load(copied)
