"""A share held out: no group, picture or caption on both sides, and no record that moves when others are added."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from nearfar.data import Records, open_source, world
from nearfar.data.batches.held_out import FEW, folds, hold_out
from nearfar.errors import UserError


def png(number):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def pairs(first, last, captions=1):
    """Records of pictures `first` to `last`, one a caption."""
    return [{"image": png(p), "text": f"thing {p}, {c}"} for c in range(captions) for p in range(first, last)]


def images(source):
    return {record["image"] for record in source}


def test_every_record_is_on_one_side_and_keeps_its_id():
    source = Records(pairs(0, 300))
    trained, held = hold_out(source, 0.1)
    assert sorted([*trained.ids(), *held.ids()]) == list(range(300))
    assert [source[i]["text"] for i in held.ids()] == held.column("text")
    assert 15 <= len(held) <= 45  # 30 +- 3 standard deviations of a coin with 0.1


def test_rows_of_one_picture_stay_together():
    trained, held = hold_out(Records(pairs(0, 100, captions=5)), 0.2)
    assert not images(trained) & images(held)
    assert len(held) % 5 == 0
    assert len(held) > 0


def test_a_picture_is_the_same_in_a_file_a_table_and_memory(tmp_path):
    for p in range(60):
        (tmp_path / f"{p}.png").write_bytes(png(p))
        (tmp_path / f"{p}.txt").write_text(f"thing {p}, 0")
    in_files = {r["text"][0] for r in hold_out(open_source(tmp_path), 0.2)[1]}
    in_memory = {r["text"] for r in hold_out(Records(pairs(0, 60)), 0.2)[1]}
    assert in_files == in_memory


def test_one_caption_of_several_pictures_is_one_group():
    rows = [{"image": png(5 * p + style), "text": f"thing {p}"} for p in range(60) for style in range(5)]
    trained, held = hold_out(Records(rows), 0.2)
    assert len(held) % 5 == 0
    assert not set(trained.texts()) & set(held.texts())


CLIPS = {
    "video": [b"clip %d" % i for i in range(60)],
    "frames": [[Image.new("RGB", (4, 4), (i, 0, f)) for f in range(3)] for i in range(60)],
    "audio": [{"array": np.full(9, i, np.float32), "sampling_rate": 8000} for i in range(60)],
}


@pytest.mark.parametrize("kind", CLIPS)
def test_of_videos_and_sounds_some_of_each_class_are_held_out_and_copies_stay_together(kind):
    side = "video" if kind == "frames" else kind
    rows = [{side: clip, "text": f"class {i % 3}"} for i, clip in enumerate(CLIPS[kind])]
    trained, held = hold_out(Records([*rows, *rows]), 0.3)
    assert {r["text"] for r in held} == {r["text"] for r in trained} == {f"class {c}" for c in range(3)}
    assert len(held) % 2 == 0
    assert not {i % 60 for i in held.ids()} & {i % 60 for i in trained.ids()}


def test_the_name_of_a_class_ties_nothing_however_few_show_it():
    rows = [{"image": png(i), "text": f"Class {i % 9}", "label": i % 9} for i in range(54)]
    trained, held = hold_out(Records(rows, classes=[f"class {c}" for c in range(9)]), 0.2)
    assert len({r["text"] for r in trained} & {r["text"] for r in held}) > 3


def test_the_name_of_a_class_ties_nothing():
    """Ten sentences under a thousand pictures: else whole classes would be held out, or none."""
    rows = [{"image": png(p), "text": f"a picture of class {p % 10}"} for p in range(1000)]
    trained, held = hold_out(Records(rows), 0.1)
    assert len(set(held.texts())) == len(set(trained.texts())) == 10
    assert 70 <= len(held) <= 130


def test_a_group_of_the_users_own_is_never_cut():
    rows = [{"image": png(p), "text": f"thing {p}", "group": p // 50} for p in range(500)]
    trained, held = hold_out(Records(rows), 0.3)
    assert not set(trained.column("group")) & set(held.column("group"))
    assert len(held) % 50 == 0


def test_added_records_move_none_of_those_before():
    old, new = pairs(0, 400), pairs(400, 900) + pairs(0, 400, captions=3)[400:]  # more pictures, more captions
    before = images(hold_out(Records(old), 0.1)[1])
    everything = old + new
    random.Random(0).shuffle(everything)
    after = images(hold_out(Records(everything), 0.1)[1])
    assert before == {png(p) for p in range(400)} & after
    assert len(after) > len(before)


def test_a_larger_share_holds_out_the_same_and_more_and_another_seed_others():
    source = Records(pairs(0, 300))
    small, large, other = (images(hold_out(source, s, seed=n)[1]) for s, n in [(0.1, 0), (0.3, 0), (0.1, 1)])
    assert small < large
    assert len(small & other) < len(small) / 2


def test_texts_alone_and_pictures_alone():
    trained, held = hold_out(Records([{"text": f"passage {i // 2}"} for i in range(200)]), 0.2)
    assert not set(trained.texts()) & set(held.texts())
    assert len(held) % 2 == 0
    trained, held = hold_out(Records([{"image": png(i)} for i in range(200)]), 0.2)
    assert len(trained) + len(held) == 200
    assert len(held) > 10


def test_questions_that_many_pictures_have_tie_nothing():
    rows = [{"image": png(i), "text": f"what is it? {i % 40}", "answers": ["a cat"]} for i in range(200)]
    trained, held = hold_out(Records(rows), 0.1)
    assert set(trained.texts()) & set(held.texts())


def test_the_smallest_data_have_both_sides():
    for n in range(2, FEW):
        trained, held = hold_out(Records(pairs(0, n)), 0.01)
        assert (len(trained), len(held)) == (n - 1, 1)
        assert len(hold_out(Records(pairs(0, n)), 0.99)[0]) == 1


def test_emoji_of_one_concept_in_five_styles_stay_together():
    trained, held = hold_out(world.emoji("train"), 0.1)
    assert not set(trained.column("group")) & set(held.column("group"))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, True, float("nan")])
def test_a_share_that_is_none(share):
    with pytest.raises(UserError, match="the share to hold out must be between 0 and 1"):
        hold_out(Records(pairs(0, 10)), share)


def test_one_group_and_a_stream_are_refused():
    with pytest.raises(UserError, match="its 5 records are one group"):
        hold_out(Records(pairs(0, 1, captions=5)), 0.1)
    with pytest.raises(UserError, match="is a stream"):
        hold_out(iter([]), 0.1)


def test_data_without_records_hold_none():
    for draw in (lambda source: hold_out(source, 0.1), lambda source: folds(source, 2)):
        with pytest.raises(UserError, match=r"^crawl holds no records, and none can be held out: name other data\.$"):
            draw(Records([], name="crawl"))


def test_a_file_that_is_gone_is_no_group(tmp_path):
    rows = [{"image": str(tmp_path / "gone.png"), "text": f"thing {i}"} for i in range(100)]
    trained, held = hold_out(Records(rows), 0.1)
    assert len(trained) + len(held) == 100
    assert len(held) < 30


def test_folds_of_a_few_classes_of_a_few_pictures_go_by_pictures():
    """Three names cannot be four parts; each picture still stays with its copies."""
    rows = [{"image": bytes([p]), "text": ("cat", "dog", "bird")[p % 3]} for p in range(21)] * 2
    parts = folds(Records(rows), 4)
    assert set(parts) == {0, 1, 2, 3}
    assert parts[:21] == parts[21:]
    by_caption = folds(Records(rows), 3)
    assert all(by_caption[p] == by_caption[p % 3] for p in range(42))
