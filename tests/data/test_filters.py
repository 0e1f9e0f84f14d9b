"""ALIGN's filter drops what each rule is for, says so, and keeps the rest."""

import io

from PIL import Image

from nearfar.data import AltTextFilter, Records


def picture(width=210, height=210, colour=0):
    buffer = io.BytesIO()
    Image.new("L", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def run(records, **rules):
    kept, report = AltTextFilter(**rules)(Records(records, name="raw"))
    return [r["text"] for r in kept], {rule: n for rule, n in report.dropped.items() if n}, report


def test_each_rule():
    good = "a cat on a mat"
    records = [
        {"image": picture(), "text": [good, "too short", "word " * 21]},
        {"image": picture(200, 500), "text": good + " a"},
        {"image": picture(630, 210), "text": good + " b"},
        {"image": b"junk", "text": good + " c"},
        {"image": picture(629, 210), "text": good + " d"},
    ]
    texts, dropped, report = run(records)
    assert texts == [[good], [good + " d"]]
    assert dropped == {
        "fewer than 3 words": 1,
        "more than 20 words": 1,
        "shorter side of 200 pixels or less": 1,
        "aspect of 3 or more": 1,
        "image cannot be read": 1,
    }
    assert (report.pairs, report.kept) == (7, 2)
    assert "2 of 7 pairs kept" in str(report)


def test_texts_shared_by_images_and_images_with_many_texts():
    one = picture()
    records = [{"image": picture(colour=i), "text": "Click to Enlarge!"} for i in range(11)]
    records += [{"image": picture(colour=100 + i), "text": "shared by ten images"} for i in range(10)]
    records += [{"image": one, "text": f"the same picture {i}"} for i in range(4)]
    texts, dropped, _ = run(records, max_texts=3)
    assert texts == [["shared by ten images"]] * 10
    # The first of the eleven is the same picture as `one`, and so has more than three texts itself.
    assert dropped == {"image with more than 3 texts": 5, "text shared by more than 10 images": 10}


def test_one_image_repeated_is_not_many_images():
    texts, dropped, _ = run([{"image": picture(), "text": "the same words again"}] * 20)
    assert len(texts) == 20
    assert not dropped


def test_rare_words_and_pairs_of_words():
    records = [{"image": picture(colour=i), "text": f"a red car {'xqzt' if i == 9 else ''}"} for i in range(10)]
    records += [{"image": picture(colour=99), "text": "car red a"}]
    texts, dropped, _ = run(records, vocabulary=5)  # a, red, car, "a red", "red car"
    assert len(texts) == 9
    assert dropped == {"rare word or pair of words": 2}


def test_the_kept_records_carry_all_else():
    source = Records([{"image": picture(10, 10), "text": "x y z"}, {"image": picture(), "text": "x y z", "label": 3}])
    kept, _ = AltTextFilter()(source)
    assert (kept[0]["label"], kept[0]["index"]) == (3, 1)
    assert kept.name == "records, filtered"
