"""An exported folder that somebody else made reads nothing outside itself."""

import json
import types

import numpy as np
import pytest
import torch

import nearfar
from nearfar.embedding.blocks.embed_blocks import weights_digest
from nearfar.errors import UserError
from nearfar.models.exported import onnx_folder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

NUMBERS = np.eye(3, 4, dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    """A model of pictures of one pixel, without weights; a file that is none of its business lies above it."""
    (tmp_path / "private.bin").write_bytes(NUMBERS.tobytes())
    made = tmp_path / "made"
    made.mkdir()
    (made / "preprocess.json").write_text(json.dumps({"embed_dim": 4, "pixels": {"size": 1}}))
    return made


def write_tower(folder, location):
    """A tower whose weights lie at a path that it names itself."""
    helper = onnx.helper
    weights = onnx.TensorProto(name="weights", data_type=1, dims=[3, 4], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=str(location))
    nodes = [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "weights"], ["u"])]
    pixels = helper.make_tensor_value_info("pixels", 1, ["batch", 3, 1, 1])
    vectors = helper.make_tensor_value_info("u", 1, ["batch", 4])
    graph = helper.make_graph(nodes, "tower", [pixels], [vectors], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "image.onnx").write_bytes(made.SerializeToString())


def test_weights_beside_the_tower_are_read(folder):
    """As those of a tower of more than 2 GB are, and the test's own towers run."""
    (folder / "image.onnx.data").write_bytes(NUMBERS.tobytes())
    write_tower(folder, "image.onnx.data")
    model = nearfar.load(folder)
    pixels = np.array([[2.0, 3.0, 5.0]], np.float32).reshape(1, 3, 1, 1)
    vectors = model.encode_image(torch.from_numpy(pixels))
    np.testing.assert_array_equal(vectors, [[2.0, 3.0, 5.0, 0.0]])


def test_weights_beside_a_tower_tell_it_from_another(folder):
    """What was embedded by one must not be taken for the other's."""
    write_tower(folder, "image.onnx.data")
    digests = []
    for numbers in (NUMBERS, 2 * NUMBERS, NUMBERS):
        (folder / "image.onnx.data").write_bytes(numbers.tobytes())
        digests.append(weights_digest(nearfar.load(folder)))
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize("how", ["above", "absolute", "linked"])
def test_weights_elsewhere_are_refused(folder, how):
    private = folder.parent / "private.bin"
    if how == "linked":
        (folder / "link.bin").symlink_to(private)
    write_tower(folder, {"above": "../private.bin", "absolute": private, "linked": "link.bin"}[how])
    with pytest.raises(UserError, match=r"image\.onnx is no tower that can be run .* names numbers outside the folder"):
        nearfar.load(folder)


@pytest.mark.parametrize(("version", "opens"), [("1.23.2", False), ("1.24.1", True), ("2.0", True)])
def test_a_runtime_that_reads_whatever_is_named_opens_nothing(folder, monkeypatch, version, opens):
    monkeypatch.setattr(onnx_folder, "need", lambda *_: types.SimpleNamespace(__version__=version))
    if opens:
        assert onnx_folder._runtime().__version__ == version
    else:
        with pytest.raises(UserError, match=r"reads files outside .* pip install 'onnxruntime>=1\.24'"):
            onnx_folder._runtime()
