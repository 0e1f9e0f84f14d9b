"""Videos of a user: folders of files, of animations and of frames, tables; captions and classes as for pictures."""

import json

import pytest
from PIL import Image

from data.video_files import grey, number_of
from nearfar.data import FrameChoice, Loader, VideoField, open_source, read_frames, videos
from nearfar.data.sources.record_groups import Groups
from nearfar.errors import UserError


def gif(path, count=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(grey(i, (8, 8))) for i in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")  # nothing is decoded when a source is opened
    return root


def test_class_folders_of_video_files_are_opened_by_their_folder(tmp_path):
    source = open_source(files(tmp_path, "jump/a.mp4", "jump/b.webm", "brush_hair/c.MOV"))
    assert (source.columns, source.classes) == (["video", "text", "label"], ["brush_hair", "jump"])
    assert source[0] == {"video": str(tmp_path / "brush_hair" / "c.MOV"), "text": ["brush hair"], "label": 0}
    assert source.texts() == ["brush hair", "jump", "jump"]
    assert videos(tmp_path, split="jump").texts() == ["a", "b"]


def test_captions_beside_and_names(tmp_path):
    files(tmp_path / "a", "1.mp4", "2.mp4")
    for name, text in (("1.txt", "a dog runs\nrunning"), ("2.mp4.txt", "a cat sits")):
        (tmp_path / "a" / name).write_text(text)
    assert [record["text"] for record in open_source(tmp_path / "a")] == [["a dog runs", "running"], ["a cat sits"]]
    assert open_source(files(tmp_path / "b", "a_dog-runs.avi"))[0]["text"] == ["a dog runs"]
    alone = open_source(tmp_path / "b", captions="none")
    assert (alone.columns, len(alone)) == (["video"], 1)


def test_animations_are_videos_where_it_is_said(tmp_path):
    for name in ("up/a.gif", "up/b.webp", "down/c.gif"):
        gif(tmp_path / name)
    assert open_source(tmp_path).columns == ["image", "text", "label"]
    source = open_source(f"videos:{tmp_path}")
    assert (source.columns, source.classes) == (["video", "text", "label"], ["down", "up"])
    assert read_frames(source[0]["video"], [2]).total == 3
    # a folder that holds pictures beside videos is one of pictures
    assert open_source(files(tmp_path, "up/d.mp4")).columns == ["image", "text", "label"]
    assert len(open_source(f"videos:{tmp_path}")) == 4


def test_folders_of_numbered_frames(tmp_path):
    for place in ("jump/c1", "jump/c2", "run/c1"):
        for i in (1, 2, 10):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey(i, (8, 8))).save(tmp_path / place / f"frame{i}.png")
    source = open_source(f"videos:{tmp_path}")
    assert (len(source), source.classes) == (3, ["jump", "run"])
    assert source.column("label") == [0, 0, 1]
    frames = read_frames(source[1]["video"], [0, 1, 2])
    assert [number_of(picture) for picture in frames.pictures] == [1, 2, 10]  # 2 comes before 10
    assert videos(tmp_path / "jump").column("text") == [["c1"], ["c2"]]  # without classes their own names
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.png")
    with pytest.raises(UserError, match="no videos in it"):
        videos(tmp_path)


def test_tables_of_videos(tmp_path):
    rows = "video,caption,split\nclips/a.mp4,a dog,train\nclips/a.mp4,it runs,train\nclips/b.mp4,a cat,test\n"
    (tmp_path / "t.csv").write_text(rows)
    source = open_source(f"videos:{tmp_path / 't.csv'}")
    assert source[0] == {"video": str(tmp_path / "clips" / "a.mp4"), "text": ["a dog"], "split": "train"}
    groups = Groups(source)
    assert [groups(record, place, place) for place, record in enumerate(source)] == [0, 0, 2]  # rows of one video
    named = videos(tmp_path / "t.csv", video="video", text="split")
    assert named.texts() == ["train", "train", "test"]
    assert videos(tmp_path / "t.csv", captions="none").columns[:1] == ["video"]
    assert "text" not in videos(tmp_path / "t.csv", captions="none").columns
    with pytest.raises(UserError, match="no column 'film'"):
        videos(tmp_path / "t.csv", video="film")
    with pytest.raises(UserError, match="a table has no splits"):
        videos(tmp_path / "t.csv", split="train")


def test_a_table_in_the_folder(tmp_path):
    files(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    lines = [{"file_name": f"{name}.mp4", "text": f"video {name}"} for name in "ab"]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = videos(tmp_path, max_skipped=0.5)
    assert source.texts() == ["video a", "video b"]
    assert source[0]["video"] == str(tmp_path / "a.mp4")
    assert "c.mp4: no caption: 'metadata.jsonl' does not name it" in str(source.skipped)


def test_what_is_not_read_and_what_is_refused(tmp_path):
    files(tmp_path, *(f"a_{c}.mp4" for c in "bcdefghijklmnopqrstuv"), "old.wmv")
    (tmp_path / "a_b.mp4").write_bytes(b"")
    source = videos(tmp_path)
    assert len(source) == 20
    assert ".wmv videos are not read: convert it to .mp4 or .webm" in str(source.skipped)
    assert "a_b.mp4: the file is empty" in str(source.skipped)
    with pytest.raises(UserError, match=r"no videos in it \(their names must end in \.mp4"):
        videos(files(tmp_path / "notes", "a.md"))
    with pytest.raises(UserError, match=r"no videos in it, only \.wmv files"):
        videos(files(tmp_path / "old", "a.wmv"))
    with pytest.raises(UserError, match="no such folder"):
        open_source(f"videos:{tmp_path / 'none'}")
    with pytest.raises(UserError, match="no option 'image'"):
        open_source(f"videos:{tmp_path}", image="x")


def test_the_worlds_videos_are_a_source_like_others():
    source = open_source("world/video", split="test", n=6, frames=4, vocabulary="basic")
    batch = next(iter(Loader(source, [VideoField(32, FrameChoice(4))], batch_size=6)))
    assert batch["video"].shape == (6, 4, 3, 32, 32)
    joined = open_source("world/video + world/scenes")
    assert joined.classes[:2] == ["moving to the left", "moving to the right"]
