"""Videos in batches: which frames, at which times, augmented alike, the same with workers, ranks and after resuming."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.video_files import grey, write
from nearfar.data import FrameChoice, Loader, Records, VideoField
from nearfar.data.batches import batch as batches
from nearfar.data.pictures.images import resize
from nearfar.data.pictures.views import ViewPreset
from nearfar.data.video.video_field import square
from nearfar.errors import UserError
from nearfar.modes import to_device


def films(count=12, frames=16):
    """Video i, frame t: grey 10 i + t."""
    shades = np.arange(count)[:, None] * 10 + np.arange(frames)
    pixels = np.broadcast_to(shades[:, :, None, None, None], (count, frames, 16, 16, 3)).astype(np.uint8)
    return Records([{"video": each, "label": i} for i, each in enumerate(pixels)])


def loader(field, source=None, **options):
    source = films() if source is None else source
    return Loader(source, [field], **{"batch_size": 4, "shuffle": False, "max_skipped": 1} | options)


def plain(**options):
    """Colours as they are, 0 to 1."""
    return VideoField(16, FrameChoice(4), mean=(0, 0, 0), std=(1, 1, 1), **options)


def shades(video):
    """The shade of each frame `[..., T]` of `[..., T, 3, H, W]`, 0 to 255."""
    return (video.mean((-3, -2, -1)) * 255).round().long()


def test_frames_numbers_and_times():
    for batch in loader(plain()):
        assert batch["video"].shape == (4, 4, 3, 16, 16)
        assert batch["video"].dtype == torch.float32
        assert batch["frame_number"].tolist() == [[2, 6, 10, 14]] * 4
        assert torch.equal(batch["frame_time"], batch["frame_number"].float())
        assert torch.equal(shades(batch["video"]), batch["index"][:, None] * 10 + batch["frame_number"])
        assert "video_views" not in batch


def test_in_training_other_frames_each_epoch_and_the_same_ones_again():
    made = loader(plain(random=True), shuffle=True)
    epochs = [torch.cat([b["frame_number"][b["index"].argsort()] for b in made]) for _ in range(2)]
    assert not torch.equal(*epochs)
    again = loader(plain(random=True), shuffle=True, workers=3)
    assert torch.equal(epochs[0], torch.cat([b["frame_number"][b["index"].argsort()] for b in again]))
    for epoch in epochs:
        assert (epoch // 4 == torch.arange(4)).all()  # one of each four
    for batch in made:
        assert torch.equal(shades(batch["video"]), batch["index"][:, None] * 10 + batch["frame_number"])


def test_selections_and_crops_are_views():
    """A wide video, white on its right: the left square is dark, the middle one half, the right one light."""
    wide = np.zeros((16, 10, 20, 3), np.uint8)
    wide[:, :, 10:] = 255
    field = plain(n_views=2, crops=3)
    batch = next(iter(loader(field, Records([{"video": wide}]), batch_size=1)))
    assert batch["video_views"].shape == (6, 1, 4, 3, 16, 16)
    assert torch.equal(batch["video_views"][0], batch["video"])
    light = batch["video_views"].mean((1, 2, 3, 4, 5))
    assert light == pytest.approx([0, 0.5, 1] * 2, abs=0.03)
    assert batch["frame_number"].tolist() == [[1, 5, 9, 13]]  # of the first of two selections
    views = next(iter(loader(plain(n_views=2))))["video_views"]
    assert shades(views)[:, 0].tolist() == [[1, 5, 9, 13], [3, 7, 11, 15]]
    assert np.array_equal(square(Image.fromarray(wide[0]), 8, 0.5), resize(Image.fromarray(wide[0]), 8))


def test_all_frames_of_a_video_are_augmented_alike():
    still = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)[:, None].repeat(8, 1)
    source = Records([{"video": each} for each in still])
    field = VideoField(16, FrameChoice(4), views="simclr", random=True, n_views=2)
    batch = next(iter(loader(field, source, batch_size=6)))
    views = batch["video_views"]
    assert (views == views[:, :, :1]).all()  # the same draws for every frame
    assert not torch.equal(views[0], views[1])
    flipped = VideoField(16, FrameChoice(4), views=ViewPreset(fit="crop", flip=1.0))
    usual = next(iter(loader(VideoField(16, FrameChoice(4)), source)))["video"]
    assert torch.allclose(next(iter(loader(flipped, source)))["video"], usual.flip(-1), atol=1e-5)


def test_two_processes_make_the_batches_of_one():
    def made(rank, world, size):
        field = VideoField(16, FrameChoice(4), views="simclr", random=True, n_views=2)
        return list(loader(field, rank=rank, world_size=world, batch_size=size, shuffle=True, seed=5))

    whole, parts = made(0, 1, 4), [made(rank, 2, 2) for rank in range(2)]
    for step, batch in enumerate(whole):
        for key, axis in (("video", 0), ("video_views", 1), ("frame_number", 0), ("frame_time", 0)):
            assert torch.equal(batch[key], torch.cat([part[step][key] for part in parts], axis))


def test_it_goes_on_inside_an_epoch():
    def new():
        return loader(plain(random=True), shuffle=True, workers=2)

    whole = list(new())
    first = new()
    batch = next(iter(first))
    assert torch.equal(batch["video"], whole[0]["video"])
    second = new()
    second.load_state_dict(first.state_dict())
    for right, left in zip(whole[1:], second, strict=True):
        assert all(torch.equal(right[key], left[key]) for key in right)


def test_size_rows_and_device_know_the_keys():
    batch = next(iter(loader(plain(n_views=3))))
    for first in ("video", "video_views", "frame_number", "frame_time"):
        assert batches.size({first: batch[first]}) == 4
    pieces = [batches.rows(batch, 0, 3, 4), batches.rows(batch, 3, 4, 4)]
    assert [batches.size(piece) for piece in pieces] == [3, 1]
    for key, value in batch.items():
        assert torch.equal(torch.cat([p[key] for p in pieces], dim=1 if key == "video_views" else 0), value)
    moved = next(iter(loader(plain(n_views=3), device="cpu")))
    assert all(torch.equal(moved[key], batch[key]) for key in batch)
    assert to_device(batch, "meta")["video_views"].device.type == "meta"
    assert sorted(batches.per_sample(batch)) == ["group", "index", "label"]


def test_a_cached_epoch_reads_no_video_again(monkeypatch):
    from nearfar.data.video import video_field

    reads = []
    read = video_field.read_frames
    monkeypatch.setattr(video_field, "read_frames", lambda *a, **o: reads.append(1) or read(*a, **o))
    kept, fresh = loader(plain()), loader(plain(random=True))
    for made, count in ((kept, 12), (fresh, 24)):
        reads.clear()
        epochs = [torch.cat([batch["video"] for batch in made]) for _ in range(2)]
        assert len(reads) == count
        assert torch.equal(*epochs) == (made is kept)


def test_unusable_videos_are_counted_with_the_remedy_and_short_ones_are_not(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "broken.mp4").write_text("no video")
    (tmp_path / "empty.webm").touch()
    names = ["one.mp4", "broken.mp4", "empty.webm", "gone.mp4", "three.mp4"]
    write(tmp_path / "one.mp4", 1)
    write(tmp_path / "three.mp4", 3)
    source = Records([{"video": str(tmp_path / name)} for name in names] + [{"video": None}], name="clips")
    made = loader(plain(), source, drop_last=False)
    batch = next(iter(made))
    assert batch["index"].tolist() == [0]
    assert [b["index"].tolist() for b in made] == [[0], [4]]
    assert batch["frame_number"].tolist() == [[0] * 4]
    assert made.skipped.count == 4
    made.skipped.write(tmp_path / "skipped.txt")
    written = (tmp_path / "skipped.txt").read_text()
    for words in ("record 1: ", "broken.mp4: not a video that can be read", "write it anew"):
        assert words in written
    assert "empty.webm: the file is empty" in written
    assert "gone.mp4: no such file" in written
    assert "video: there is none" in written


def test_crops_need_views_that_do_not_crop():
    for views in ("clip", "align", "albef"):
        with pytest.raises(UserError, match="these views crop by themselves"):
            VideoField(16, views=views, crops=3)
    with pytest.raises(UserError, match="n_views is 0"):
        VideoField(16, n_views=0)
    with pytest.raises(UserError, match="has no 'video'"):
        loader(plain(), Records([{"image": grey(1)}]))
