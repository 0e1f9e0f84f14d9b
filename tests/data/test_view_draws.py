"""Chance and geometry of augmented views: no two draws alike, the same from the same seed, the scale of evaluation."""

import numpy as np
import torch
from PIL import Image

from nearfar.data import Loader, Records
from nearfar.models.towers.pixels import Pixels

N = 64


def crops(workers, seed=0):
    """The places of all crops of two epochs: `[2 epochs, 2 views, N, 4]`, and the samples they belong to."""
    source = Records([{"image": Image.new("RGB", (40, 40), (i, 0, 0)), "index": i} for i in range(N)], name="squares")
    loader = Loader(source, batch_size=16, image_size=8, views="simclr", n_views=2, workers=workers, seed=seed)
    epochs = []
    for _ in range(2):
        made = list(loader)
        order = torch.cat([batch["index"] for batch in made]).argsort()
        geometry = torch.cat([batch["geometry"] for batch in made], 1)[:, order]
        epochs.append(
            torch.stack([geometry[..., 0, 0], geometry[..., 1, 1], geometry[..., 0, 2], geometry[..., 1, 2]], -1)
        )
    return torch.stack(epochs)


def test_all_crops_differ_between_samples_views_and_epochs_with_any_workers():
    alone, four = crops(0), crops(4)
    assert torch.equal(alone, four)
    assert len(alone.flatten(0, 2).unique(dim=0)) == 2 * 2 * N
    assert torch.equal(crops(0), alone)
    assert not (crops(0, seed=1) == alone).all(-1).any()


def test_evaluation_and_training_scale_down_alike_with_antialiasing():
    """Every fourth column white: a quarter of the light everywhere, where sampling single columns would give 0 or 1."""
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[:, 3::4] = 255
    picture = Image.fromarray(stripes)
    evaluated = Pixels(4, (0.0,) * 3, (1.0,) * 3)([picture])
    loader = Loader(
        Records([{"image": picture}]), batch_size=1, image_size=4, views="none", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    trained = next(iter(loader))["image"]
    assert (evaluated - trained).abs().max() < 0.01
    assert (trained[0, :, :, 1:3] - 0.25).abs().max() < 0.03


def test_a_flip_takes_places_to_their_mirror():
    """Of 25 columns the continuous place 24.5 goes to 0.5, the index 24 to 0."""
    from nearfar.data.pictures.views import ViewPreset, Views

    views = Views(ViewPreset(flip=1.0), size=25)
    _, matrices = views(torch.rand(1, 3, 25, 25), views.draw(1, torch.Generator().manual_seed(0)))
    index = matrices[0, 0] @ torch.tensor([24.0, 3.0, 1.0])
    torch.testing.assert_close(index, torch.tensor([0.0, 3.0, 1.0]), atol=1e-4, rtol=0)
    # Indices are centres: the continuous place of index i is i + 0.5.
    continuous = matrices[0, 0] @ torch.tensor([24.5 - 0.5, 3.0, 1.0]) + torch.tensor([0.5, 0.0, 0.0])
    assert abs(continuous[0].item() - 0.5) < 1e-4


def test_pictures_that_are_not_mirrored_keep_their_boxes_to_the_bit():
    from nearfar.data.pictures.view_boxes import boxes_in_view
    from nearfar.data.pictures.views import ViewPreset, Views

    pictures, box = torch.rand(40, 3, 24, 24), torch.tensor([[3.0, 4.0, 11.5, 17.0]])
    views = Views(ViewPreset(flip=0.5), size=24)
    pixels, geometry = views(pictures, views.draw(40, torch.Generator().manual_seed(0)))
    same = [bool((view - picture).abs().max() < 1e-3) for view, picture in zip(pixels[0], pictures, strict=True)]
    assert 10 < sum(same) < 30
    for kept, matrix in zip(same, geometry[0], strict=True):
        boxes, _ = boxes_in_view(box, matrix, (24, 24))
        assert torch.equal(boxes, box) is kept
