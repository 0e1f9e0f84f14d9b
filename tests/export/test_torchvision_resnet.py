"""A ResNet under torchvision's names: which names, which weights, and what is refused.

`tests/compare/test_torchvision.py` opens them in torchvision itself.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from nearfar import cli, load
from nearfar.errors import UserError
from nearfar.export.torchvision_resnet import torchvision_state
from nearfar.models import image_encoder


def bottlenecks(depths=(3, 4, 6, 3)):
    wide = {"model_type": "resnet", "embedding_size": 64, "hidden_sizes": [256, 512, 1024, 2048]}
    return image_encoder(image={**wide, "depths": list(depths), "layer_type": "bottleneck"}, image_size=32)


def test_a_small_resnet_has_torchvisions_names():
    """Written from torchvision 0.28: 18 layers have 20 convolutions with a norm of 5 values each."""
    name, state = torchvision_state(image_encoder("resnet18"))
    assert (name, len(state)) == ("resnet18", 20 * 6)
    assert list(state)[:7] == [
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "bn1.running_mean",
        "bn1.running_var",
        "bn1.num_batches_tracked",
        "layer1.0.conv1.weight",
    ]
    assert "layer1.0.downsample.0.weight" not in state, "basic blocks of the first stage keep their width"
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert shapes["layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert shapes["layer4.1.bn2.running_var"] == (512,)


def test_bottlenecks():
    name, state = torchvision_state(bottlenecks())
    assert (name, len(state)) == ("resnet50", 53 * 6)
    assert tuple(state["layer1.0.downsample.0.weight"].shape) == (256, 64, 1, 1)
    assert tuple(state["layer3.5.conv3.weight"].shape) == (1024, 256, 1, 1)


def test_every_weight_is_there_once():
    model = image_encoder("resnet18")
    _, state = torchvision_state(model)
    own = model.image.backbone.state_dict()
    assert sorted(value.data_ptr() for value in state.values()) == sorted(value.data_ptr() for value in own.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: image_encoder("micro-resnet"), r"ResNet of basic blocks \[1, 1, 1\].*model.preset: resnet18"),
        (lambda: bottlenecks((1, 1, 1, 1)), r"none of torchvision's \(resnet18, .*resnet152\)"),
        (lambda: image_encoder("tiny"), "a ConvNextModel, and no ResNet"),
        (lambda: torch.nn.Linear(2, 2), "a Linear is a NoneType, and no ResNet"),
    ],
)
def test_another_tower_is_a_sentence(make, message):
    with pytest.raises(UserError, match=message):
        torchvision_state(make())


def test_the_command_writes_weights_and_constants(tmp_path, capsys):
    model = image_encoder("resnet18", image_size=64, projector={"hidden": 16, "out": 8}).eval()
    model.save_pretrained(tmp_path / "model")
    words = [str(tmp_path / "model"), "--torchvision", "--out", str(tmp_path / "out")]
    for _ in range(2):  # its own folder is replaced
        cli.run(cli.load("export"), "export", words)
    assert "torchvision.models.resnet18" in capsys.readouterr().out
    _, state = torchvision_state(load(tmp_path / "model"))
    written = load_file(tmp_path / "out" / "resnet18.safetensors")
    assert all(torch.equal(value, written[name]) for name, value in state.items())
    assert json.loads((tmp_path / "out" / "preprocess.json").read_text())["image_size"] == 64
    assert 'load_file("resnet18.safetensors")' in (tmp_path / "out" / "README.md").read_text()


def test_one_kind_is_to_be_said(tmp_path):
    with pytest.raises(UserError, match="--onnx, --sentence-transformers, or --torchvision"):
        cli.run(cli.load("export"), "export", ["towers", "--onnx", "--torchvision", "--out", str(tmp_path)])
