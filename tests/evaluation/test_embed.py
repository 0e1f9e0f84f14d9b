import os

import pytest
import torch

from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.evaluation import Embeddings, embed, embed_images, embed_texts


def test_vectors_owners_and_descriptions(encoder, colours):
    data = embed(encoder, colours, batch_size=5)
    assert data.image.shape == (12, 3)
    assert data.text.shape == (24, 3)
    assert data.image.dtype == data.text.dtype == torch.float32
    torch.testing.assert_close(data.image.norm(dim=1), torch.ones(12))
    assert data.image_of_text.tolist() == [i // 2 for i in range(24)]
    assert data.label.tolist() == data.group.tolist() == list(range(6)) * 2
    assert data.domain.tolist() == [0] * 6 + [1] * 6
    assert data.captions[:2] == ["a red square", "something red"]
    assert data.names[1] == "green"
    assert data.columns["category"][0] == "dark"
    # A plain square and its name fall on the same point.
    torch.testing.assert_close(data.text[0], data.image[0], atol=0.02, rtol=0)


def test_each_different_text_is_encoded_once_and_batches_do_not_matter(encoder, colours):
    data = embed(encoder, colours, batch_size=1)
    assert sorted(encoder.texts_read) == sorted(set(data.captions))
    torch.testing.assert_close(embed(encoder, colours, batch_size=100).text, data.text)


def test_eval_mode_then_every_module_as_it_was(encoder, colours):
    encoder.train()
    encoder.frozen.eval()
    embed(encoder, colours)
    assert encoder.modes == [False]
    assert encoder.training
    assert not encoder.frozen.training


def test_first_captions_only(encoder, colours):
    assert embed(encoder, colours, captions=1).captions[1] == "a green square"
    assert embed(encoder, colours, captions=0).text.shape == (0, 3)


def test_an_encoder_of_images_alone_takes_no_captions(encoder, colours):
    class ImagesAlone:
        encode_image, preprocess = encoder.encode_image, encoder.preprocess

    data = embed(ImagesAlone(), colours)
    assert data.text.shape == (0, 3)
    assert torch.equal(data.image, embed(encoder, colours).image)


def test_broken_images_are_skipped_counted_and_named(encoder, colours, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    records = [*colours, {"image": tmp_path / "broken.png", "text": "a broken one"}]
    data = embed(encoder, Records([records[0], records[-1], *records[1:-1]]))
    assert len(data) == 12
    assert len(data.skipped) == 1
    assert "broken.png" in str(data.skipped)
    assert data.row.tolist() == [0, *range(2, 13)]
    assert "a broken one" not in data.captions


def test_too_many_broken_images_stop(encoder, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png"):
        embed(encoder, Records([{"image": tmp_path / "broken.png", "text": "x"}] * 3))


def test_no_images_and_no_image_column(encoder):
    with pytest.raises(UserError, match="no image"):
        embed(encoder, Records([], name="void"))
    with pytest.raises(UserError, match="image=NAME"):
        embed(encoder, Records([{"picture": "a.png", "label": 1}]))
    with pytest.raises(UserError, match="image=NAME"):
        embed(encoder, Records([{"picture": "a.png", "text": "x"}]), ["image", "text"])
    with pytest.raises(UserError, match="no side 'video'"):
        embed(encoder, Records([{"video": "a.mp4"}]), ["video"])


def test_a_diverged_model_is_told(encoder, colours):
    encoder.zero.data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        embed(encoder, colours)


def test_streams_are_read_in_order(encoder, colours):
    data = embed(encoder, iter(colours), batch_size=5)
    assert torch.equal(data.image, embed(encoder, colours).image)
    assert data.row.tolist() == list(range(12))


def test_texts_keep_their_order(encoder):
    texts = ["something red", "blue", "something red", "a green square"]
    vectors = embed_texts(encoder, texts, batch_size=2)
    assert torch.equal(vectors[0], vectors[2])
    assert torch.equal(vectors[1], embed_texts(encoder, ["blue"])[0])
    assert embed_texts(encoder, []).shape == (0, 3)
    assert len(encoder.texts_read) == 4


def test_images_by_path_bytes_and_picture(encoder, colours, tmp_path):
    picture = colours[0]["image"]
    picture.save(tmp_path / "a.png")
    vectors = embed_images(encoder, [tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), picture], batch_size=2)
    assert torch.equal(vectors[0], vectors[1])
    assert torch.equal(vectors[0], vectors[2])


def test_save_and_load(encoder, colours, tmp_path):
    data = embed(encoder, colours)
    data.skipped.add("a.png", "empty")
    again = Embeddings.load(data.save(tmp_path / "e.safetensors"))
    for name in ("image", "text", "image_of_text", "row", "index", "group", "label", "domain"):
        assert torch.equal(getattr(again, name), getattr(data, name))
    for name in ("classes", "domains", "names", "captions", "columns", "source"):
        assert getattr(again, name) == getattr(data, name)
    assert list(again.skipped) == list(data.skipped)
    assert len(again.skipped) == 1
    assert os.listdir(tmp_path) == ["e.safetensors"]


def test_bad_files_are_refused_by_name(tmp_path):
    from safetensors.torch import save_file

    for content in (b"", b"junk" * 10):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(UserError, match="bad holds no embeddings"):
            Embeddings.load(tmp_path / "bad")
    save_file({"weight": torch.zeros(2)}, tmp_path / "bad")
    with pytest.raises(UserError, match="bad holds no embeddings"):
        Embeddings.load(tmp_path / "bad")


def test_select_takes_the_captions_along(encoder, colours):
    data = embed(encoder, colours)
    part = data.select([7, 2])
    assert part.names == ["green", "blue"]
    assert part.captions == ["a blue square", "something blue", "a green square", "something green"]
    assert part.image_of_text.tolist() == [1, 1, 0, 0]
    assert part.columns["category"] == [data.columns["category"][7], data.columns["category"][2]]


def test_the_same_words_for_the_same_group_count_once(encoder, colours):
    data = embed(encoder, colours)
    assert data.distinct_texts().tolist() == list(range(12))
    data.group = None  # pictures with the very same captions are one group then
    assert data.distinct_texts().tolist() == list(range(12))
    data.group = torch.arange(12)
    assert len(data.distinct_texts()) == 24


def test_a_batch_of_none_is_refused(encoder, colours):
    for size in (0, -1):
        for run in (
            lambda size: embed(encoder, colours, batch_size=size),
            lambda size: embed_texts(encoder, ["red"], batch_size=size),
            lambda size: embed_images(encoder, [], batch_size=size),
        ):
            with pytest.raises(UserError, match=f"batch_size is {size}, but must be 1 or more"):
                run(size)
    with pytest.raises(UserError, match="captions is -1"):
        embed(encoder, colours, captions=-1)


def test_lengths_that_do_not_fit_are_refused():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="image_of_text"):
        Embeddings(eye, eye, torch.arange(2))
    with pytest.raises(ValueError, match="label"):
        Embeddings(eye, eye, torch.arange(3), label=torch.arange(2))


class Sentences:
    """A model that reads nothing but text: counts of three words."""

    embed_dim, words = 3, ("red", "green", "blue")

    def tokenize(self, texts):
        return torch.tensor([[float(text.count(word)) + 0.1 for word in self.words] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


def test_a_text_only_model_embeds_texts_alone(colours):
    data = embed(Sentences(), colours)
    assert list(data.sides) == ["text"]
    assert (len(data), data.image.shape, data.text.shape) == (12, (0, 3), (24, 3))
    assert data.image_of_text.tolist() == [i // 2 for i in range(24)]
    assert data.label.tolist() == colours.column("label")
    assert repr(data) == "<Embeddings of colours: 24 texts, 3 dimensions>"


def test_texts_without_pictures_are_embedded_by_any_model(encoder, tmp_path):
    notes = Records([{"text": ["red", "blue"], "label": 0}, {"text": ""}, {"text": "green", "label": 1}], name="notes")
    with pytest.raises(UserError, match="it has no text"):
        embed(encoder, notes)
    data = embed(encoder, notes, max_skipped=0.5)
    assert [problem.why for problem in data.skipped] == ["it has no text"]
    assert data.row.tolist() == [0, 2]
    assert data.sides["text"].owner.tolist() == [0, 0, 1]
    part = data.select([1])
    assert part.captions == ["green"]
    assert part.sides["text"].owner.tolist() == [0]
    again = Embeddings.load(data.save(tmp_path / "notes.safetensors"))
    assert list(again.sides) == ["text"]
    assert torch.equal(again.text, data.text)
    assert again.row.tolist() == [0, 2]


class Films(Sentences):
    """A side of another kind: a clip is a list of numbers."""

    def preprocess_video(self, clips):
        return torch.tensor(clips, dtype=torch.float32)

    def encode_video(self, clips, normalize=False):
        return clips.sum(1, keepdim=True) * torch.ones(1, 3)


def test_a_side_of_another_kind_is_two_methods_of_the_model(tmp_path):
    films = Records([{"video": [1, 2], "text": "red"}, {"video": None, "text": "x"}, {"video": [3, 4], "text": "blue"}])
    data = embed(Films(), films, max_skipped=0.5)
    assert sorted(data.sides) == ["text", "video"]
    assert torch.allclose(data.sides["video"].vectors, torch.full((2, 3), 3**-0.5))
    assert data.row.tolist() == [0, 2]
    assert [problem.why for problem in data.skipped] == ["it has no video"]
    again = Embeddings.load(data.save(tmp_path / "films.safetensors"))
    assert torch.equal(again.sides["video"].vectors, data.sides["video"].vectors)
    assert again.select([1]).sides["video"].owner.tolist() == [0]
    assert list(embed(Films(), films, ["text"]).sides) == ["text"]


def test_a_file_of_before_sides_still_opens(tmp_path):
    """As nearfar 0.1.0 wrote it, when there were pictures and captions only."""
    import json

    from safetensors.torch import save_file

    words = {
        "classes": None, "domains": None, "names": ["a", "b"], "captions": ["a cat"], "columns": {}, "source": "pets",
        "skipped": {"count": 1, "problems": [["c.png", "broken"]]},
    }  # fmt: skip
    tensors = {
        "image": torch.eye(2),
        "text": torch.eye(2)[1:],
        "image_of_text": torch.tensor([1]),
        "row": torch.tensor([0, 2]),
        "index": torch.tensor([0, 2]),
        "words": torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8),
    }
    save_file(tensors, tmp_path / "old.safetensors", {"format": "nearfar.embeddings"})
    data = Embeddings.load(tmp_path / "old.safetensors")
    assert sorted(data.sides) == ["image", "text"]
    assert (data.row.tolist(), data.image_of_text.tolist(), data.captions) == ([0, 2], [1], ["a cat"])
    assert torch.equal(data.image, torch.eye(2))
    assert [problem.where for problem in data.skipped] == ["c.png"]


def test_an_owner_outside_the_records_is_refused():
    with pytest.raises(ValueError, match="outside the 3 records"):
        Embeddings(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))


def test_a_caption_that_is_an_object_among_others_is_skipped_with_its_place(encoder, colours):
    """The first row may be text, and a later one an object: that one alone cannot be used."""
    records = [dict(record) for record in colours]
    records[7]["text"] = {"en": "a red square"}
    data = embed(encoder, Records(records, name="rows"))
    assert len(data.image) == 11
    (problem,) = data.skipped
    assert problem.where == "rows, record 7"
    assert "text=COLUMN.en" in problem.why
    assert len(embed(encoder, Records(records, name="rows"), captions=0).image) == 12


def test_a_share_of_few_records_is_judged_with_the_rest_of_its_data(encoder, colours):
    """One broken picture of forty is no reason to stop where it happens to be one of four held out."""
    records = [dict(record) for record in [*colours] * 4]
    records[5]["image"] = b"no picture"
    held = Records(records, name="rows").select([1, 5, 9, 13])
    data = embed(encoder, held)
    assert [str(problem).split(": ")[0] for problem in data.skipped] == ["rows, record 5"]
    with pytest.raises(UserError, match="1 of the 4 records read"):
        embed(encoder, Records([dict(record) for record in held], name="rows"))
    many = [{**record, "image": b"no picture"} if place < 8 else record for place, record in enumerate(records)]
    with pytest.raises(UserError, match="8 of the 8 records read"):
        embed(encoder, Records(many, name="rows").select(range(8)))
