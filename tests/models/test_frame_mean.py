"""Videos through a model of pictures: the mean of their frames, in embedding, measuring and search."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.colour_films import BLUE, GREEN, RED, Colours, film
from nearfar.data import FrameChoice, Records
from nearfar.embedding import embed
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.models.video.frame_mean import FrameMean, for_videos
from nearfar.search import build, query

FILMS = [film(RED), film(GREEN), film(BLUE), film(RED, RED, GREEN)]


def films():
    names = ["red", "green", "blue"]
    records = [
        {"video": each, "text": f"a {name} film", "label": names.index(name.split()[0])}
        for each, name in zip(FILMS, ["red", "green", "blue", "red and green"], strict=True)
    ]
    return Records(records, classes=names, name="films")


def test_a_video_is_the_mean_of_its_frames():
    model = FrameMean(Colours(), FrameChoice(4))
    pixels = model.preprocess_video(FILMS)
    assert pixels.shape == (4, 4, 3, 8, 8)
    assert model.encode_video(pixels)[3] == pytest.approx(torch.tensor([187.5, 62.5, 0]) / 255, abs=1e-3)
    assert model.encode_video(pixels, normalize=True).norm(dim=1) == pytest.approx(torch.ones(4))
    backwards = FILMS[3][::-1].copy()
    assert torch.allclose(model.encode_video(model.preprocess_video([backwards])), model.encode_video(pixels)[3:])
    assert torch.equal(model.preprocess_video([model.read_video(FILMS[3])]), pixels[3:])
    assert model.preprocess_video([]).shape == (0, 4, 3, 8, 8)
    kept = []
    model.read_video(FILMS[0], keep=kept.append)
    assert [picture.size for picture in kept] == [(16, 12)] * 4


def test_it_takes_no_pictures_and_wraps_what_does():
    model = FrameMean(Colours())
    assert not hasattr(model, "encode_image")
    assert (model.embed_dim, model.image_size) == (3, 8)
    with pytest.raises(UserError, match="takes no pictures"):
        FrameMean(nn.Linear(1, 1))
    encoder = Colours()
    assert isinstance(for_videos(encoder, films()), FrameMean)
    assert for_videos(encoder, Records([{"image": "a.png", "video": "a.mp4"}])) is encoder
    assert for_videos(encoder, Records([{"image": "a.png"}])) is encoder
    assert for_videos(model, films()) is model


def test_videos_are_embedded_and_measured_as_pictures_are(tmp_path):
    data = embed(Colours(), films())
    assert sorted(data.sides) == ["text", "video"]
    assert torch.equal(data.image, data.sides["video"].vectors)
    assert data.image_of_text.tolist() == [0, 1, 2, 3]
    results = evaluate(Colours(), films(), ["zero_shot", "retrieval"])
    assert results["zero_shot"].metrics["top1"].value == 1
    # The film that is mostly red lies nearer to "red" than to its own caption.
    assert results["retrieval"].metrics["image_to_text_R@1"].value == 0.75
    assert missing_in_source("zero_shot", films()) is None
    assert missing_in_model("zero_shot", FrameMean(Colours())) is None
    again = type(data).load(data.save(tmp_path / "films.safetensors"))
    assert torch.equal(again.image, data.image)


def test_broken_videos_are_counted(tmp_path):
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    records = [*films(), {"video": str(tmp_path / "broken.gif"), "text": "x", "label": 0}]
    data = embed(Colours(), Records(records), max_skipped=0.5)
    assert data.row.tolist() == [0, 1, 2, 3]
    assert "broken.gif: not an animation that can be read: copy it anew" in str(data.skipped)


def gif(path, frames):
    pictures = [Image.fromarray(each) for each in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])
    return str(path)


def test_videos_are_indexed_and_found_by_text_and_by_picture(tmp_path):
    names = ("red", "green", "blue", "both")
    paths = [gif(tmp_path / f"{name}.gif", each) for name, each in zip(names, FILMS, strict=True)]
    (tmp_path / "bad.gif").write_bytes(b"GIF89a")
    rows = [{"video": path, "text": f"film {i}"} for i, path in enumerate([*paths, str(tmp_path / "bad.gif")])]
    encoder, source = Colours(), Records(rows, name="films")
    index = build(encoder, source, tmp_path / "index", max_skipped=0.5, kind="exact")
    assert index.manifest.sources["films"] == {"added": 4, "updated": 0, "unchanged": 0, "removed": 0, "skipped": 1}
    hits = query(index, encoder, text="green", top=4)
    assert [hit.path for hit in hits[:2]] == [paths[1], paths[3]]
    assert not hits[0].is_text
    assert query(index, encoder, image=Image.new("RGB", (8, 8), BLUE), top=1)[0].path == paths[2]
    shown = Image.open(io.BytesIO(hits[1].picture()))
    assert (shown.format, shown.n_frames > 1, shown.size) == ("WEBP", True, (16, 12))
    # Only what has changed meets the model again.
    gif(tmp_path / "red.gif", FILMS[2][:5])
    again = build(encoder, source, tmp_path / "index", max_skipped=0.5)
    assert again.manifest.sources["films"]["updated"] == 1
    assert again.manifest.sources["films"]["unchanged"] == 3
    assert len(query(again, encoder, image=hits[1].image(), top=1)[0].picture()) > 0


def test_videos_in_memory_and_folders_of_frames_are_indexed(tmp_path):
    for i, each in enumerate(FILMS[0][:2]):
        Image.fromarray(each).save(tmp_path / f"{i}.png")
    frames = [str(tmp_path / f"{i}.png") for i in range(2)]
    source = Records([{"video": FILMS[1]}, {"video": frames}, {"video": FILMS[2]}], name="films")
    index = build(Colours(), source, tmp_path / "index", kind="exact")
    assert [query(index, Colours(), text=name, top=1)[0].id for name in ("green", "red", "blue")] == [0, 1, 2]
    assert build(Colours(), source, tmp_path / "index").manifest.sources["films"]["unchanged"] == 3


def test_a_model_that_is_no_module_of_torch_reads_videos():
    class Plain:
        image_size = 8

        def preprocess(self, pictures):
            return torch.stack(
                [torch.from_numpy(np.asarray(each.resize((8, 8)))).permute(2, 0, 1) / 255 for each in pictures]
            )

        def encode_image(self, pixels, normalize=False):
            return pixels.mean((2, 3))

    model = FrameMean(Plain())
    assert model.encode_video(model.preprocess_video([FILMS[0][:4]]), normalize=True).shape == (1, 3)
    with pytest.raises(AttributeError, match="embed_dim"):
        _ = model.embed_dim
