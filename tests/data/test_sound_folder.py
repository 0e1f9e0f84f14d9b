"""Sounds of a user: folders, tables, captions and classes as for pictures; batches of them."""

import json

import numpy as np
import pytest
import torch

from nearfar.data import Loader, LogMel, Records, SoundField, open_source, sounds
from nearfar.data.batches import batch as batches
from nearfar.data.sources.record_groups import Groups
from nearfar.errors import UserError


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")  # nothing is decoded when a source is opened
    return root


def test_class_folders_of_sounds_are_opened_by_their_folder(tmp_path):
    source = open_source(files(tmp_path, "dog/a.wav", "dog/b.FLAC", "door_bell/c.ogg"))
    assert (source.columns, source.classes) == (["audio", "text", "label"], ["dog", "door_bell"])
    assert source[2] == {"audio": str(tmp_path / "door_bell" / "c.ogg"), "text": ["door bell"], "label": 1}
    assert sounds(tmp_path, split="dog", captions="name").texts() == ["a", "b"]


def test_captions_beside_and_names(tmp_path):
    files(tmp_path / "a", "1.wav", "2.mp3")
    for name, text in (("1.txt", "turn on the light\nlights on"), ("2.mp3.txt", "stop")):
        (tmp_path / "a" / name).write_text(text)
    assert [record["text"] for record in open_source(tmp_path / "a")] == [["turn on the light", "lights on"], ["stop"]]
    assert open_source(files(tmp_path / "b", "a_dog-barks.wav"))[0]["text"] == ["a dog barks"]
    alone = open_source(tmp_path / "b", captions="none")
    assert (alone.columns, len(alone)) == (["audio"], 1)
    with pytest.raises(UserError, match=r"a file's name such as 'rec_0001\.wav' says nothing"):
        open_source(files(tmp_path / "c", "rec_0001.wav"))


def test_sounds_beside_pictures_and_videos_are_named(tmp_path):
    files(tmp_path, "up/a.jpg", "up/a.wav")
    assert open_source(tmp_path).columns == ["image", "text"]
    assert open_source(f"sounds:{tmp_path}")[0]["audio"] == str(tmp_path / "up" / "a.wav")
    assert open_source(files(tmp_path / "films", "a_film.mp4", "a_film.wav")).columns[0] == "video"


def test_tables_of_sounds(tmp_path):
    rows = "audio,transcript,speaker\nclips/a.wav,go left,slt\nclips/a.wav,go to the left,slt\nclips/b.wav,stop,rms\n"
    (tmp_path / "t.csv").write_text(rows)
    source = sounds(tmp_path / "t.csv", text="transcript")
    assert source[0] == {"audio": str(tmp_path / "clips" / "a.wav"), "text": ["go left"], "speaker": "slt"}
    groups = Groups(source)
    assert [groups(record, place, place) for place, record in enumerate(source)] == [0, 0, 2]  # rows of one sound
    with pytest.raises(UserError, match="no column 'wave'"):
        sounds(tmp_path / "t.csv", audio="wave")
    with pytest.raises(UserError, match="a table has no splits"):
        sounds(tmp_path / "t.csv", split="train")


def test_a_table_in_the_folder(tmp_path):
    files(tmp_path, "a.wav", "b.wav", "c.wav")
    lines = [{"file_name": f"{name}.wav", "text": f"sound {name}"} for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = open_source(tmp_path, max_skipped=0.5)
    assert source.texts() == ["sound a", "sound b"]
    assert "c.wav: no caption: 'metadata.jsonl' does not name it" in str(source.skipped)


def test_what_is_not_read_and_what_is_refused(tmp_path):
    files(tmp_path, *(f"a_{c}.wav" for c in "bcdefghijklmnopqrstuv"), "old.wma")
    (tmp_path / "a_b.wav").write_bytes(b"")
    source = sounds(tmp_path)
    assert len(source) == 20
    assert ".wma sounds are not read: convert it to .wav or .flac" in str(source.skipped)
    assert "a_b.wav: the file is empty" in str(source.skipped)
    with pytest.raises(UserError, match=r"no sounds in it \(their names must end in \.wav"):
        sounds(files(tmp_path / "notes", "a.md"))
    with pytest.raises(UserError, match="no such folder"):
        open_source(f"sounds:{tmp_path / 'none'}")


def hum(seconds, rate=16000, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)), rate


FIELD = {"log_mel": LogMel(mels=8)}


def test_batches_of_sounds_of_any_length_and_rate():
    rows = [{"audio": hum(0.1), "text": "a"}, {"audio": hum(0.2, 8000), "text": "b"}, {"audio": hum(9), "text": "c"}]
    field = SoundField(max_seconds=0.5, **FIELD)
    batch = next(iter(Loader(Records(rows), [field], batch_size=3, shuffle=False)))
    features, mask = batch["audio"]["input_features"], batch["audio"]["attention_mask"]
    assert (features.shape, mask.sum(1).tolist()) == ((3, 51, 8), [11, 21, 51])
    assert (features[mask == 0] == 0).all()
    alone = next(iter(Loader(Records(rows[:1]), [field], batch_size=1, shuffle=False)))["audio"]["input_features"]
    assert torch.equal(features[0, :11], alone[0])  # whatever is beside it
    part = batches.rows(batch, 1, 2, 3)["audio"]
    assert part["attention_mask"].tolist() == mask[1:2].tolist()
    assert batches.size({"audio": batch["audio"]}) == 3


def test_in_training_another_part_each_epoch_and_the_same_ones_again():
    rows = Records([{"audio": hum(2, seed=i)} for i in range(4)])
    field = SoundField(max_seconds=0.2, random=True, **FIELD)
    made = Loader(rows, [field], batch_size=4, shuffle=False)
    first, second = (next(iter(made))["audio"]["input_features"] for _ in range(2))
    again = next(iter(Loader(rows, [field], batch_size=4, shuffle=False, workers=2)))["audio"]["input_features"]
    assert first.shape == (4, 21, 8)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)


def test_bad_sounds_are_skipped_counted_and_named(tmp_path):
    (tmp_path / "text.wav").write_text("words")
    rows = [{"audio": hum(0.1, seed=i)} for i in range(6)]
    rows += [{"audio": (np.zeros(1600), 16000)}, {"audio": str(tmp_path / "text.wav")}, {"audio": None}]
    loader = Loader(Records(rows, name="hums"), [SoundField(**FIELD)], batch_size=3, shuffle=False, max_skipped=1)
    assert sum(len(batch["index"]) for batch in loader) == 6
    problems = str(loader.skipped)
    assert loader.skipped.count == 3
    for words in ("silent from end to end: record it anew", "text.wav: not a sound that can be read", "there is none"):
        assert words in problems
    with pytest.raises(UserError, match="max_seconds=0: must be above 0"):
        SoundField(max_seconds=0)
