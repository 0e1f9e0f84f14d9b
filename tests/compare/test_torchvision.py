"""A ResNet of nearfar opens in torchvision and in timm by `load_state_dict`, and gives the same features."""

import pytest
import torch

from nearfar.export.torchvision_resnet import torchvision_state
from nearfar.models import image_encoder

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")


def agree(network, state, model):
    """In float64: what is left is a swapped or a missing weight."""
    network.load_state_dict(state)
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(network.double().eval()(pixels), model.double().encode_image(pixels))


def shaken(model):
    """With running statistics and gains that are not those of the start, so that a swapped pair shows."""
    chance = torch.Generator().manual_seed(0)
    for value in model.image.backbone.state_dict().values():
        if value.ndim == 1:
            value.add_(0.3 * torch.rand(value.shape, generator=chance))
    return model.eval()


@pytest.mark.parametrize("preset", ["resnet18", "resnet50"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_the_same_features(preset, library):
    torch.manual_seed(0)
    model = shaken(image_encoder(preset))
    name, state = torchvision_state(model)
    if library == "timm":
        network = timm.create_model(name, pretrained=False, num_classes=0)
    else:
        network = getattr(torchvision.models, name)()
        network.fc = torch.nn.Identity()
    agree(network, state, model)


def test_a_resnet_of_timm_goes_there_and_back():
    model = image_encoder(image="timm:resnet18", pretrained=False, image_size=64).eval()
    name, state = torchvision_state(model)
    network = getattr(torchvision.models, name)()
    network.fc = torch.nn.Identity()
    agree(network, state, model)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip", "ViT", "DeiT", "ConvNext", "EfficientNet", "Siglip2", "Levit"])
def test_processors_that_work_through_torchvision(kind):
    """They differ from Pillow's by a few of 255 levels at most, in few pixels."""
    import numpy as np
    import transformers
    from PIL import Image

    from nearfar.models.towers.processors import as_pixels

    processor = getattr(transformers, f"{kind}ImageProcessor")()
    assert any(each.__name__ == "TorchvisionBackend" for each in type(processor).__mro__)
    pixels = as_pixels(processor)
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    theirs = torch.as_tensor(processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"])
    ours = pixels([Image.fromarray(noise)])[..., : theirs.shape[-1]]
    assert (ours - theirs).abs().max() < 0.05
    assert (ours - theirs).abs().mean() < 0.001
