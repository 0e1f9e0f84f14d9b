"""The table of descriptions: every picture once, kept when a run is killed, edits that stay."""

import json
import shutil

import pytest
from PIL import Image

from nearfar.data import Records, open_source
from nearfar.data.descriptions.describe_pictures import SceneDescriber
from nearfar.data.descriptions.description_table import (
    TextSettings,
    answers_beside,
    describe_source,
    picture_digest,
)
from nearfar.data.pictures.images import BadImage
from nearfar.data.sources.skipped import Skipped
from nearfar.data.tables.appended_lines import AppendedLines
from nearfar.errors import UserError


class Shades:
    """Says which shade a picture has; the third answer is no JSON."""

    image_size = None

    def __init__(self, dies_at=None):
        self.calls, self.pictures, self.dies_at = 0, 0, dies_at

    def preprocess(self, pictures):
        return [picture.getpixel((0, 0)) for picture in pictures]

    def caption(self, pixels, prompt, *, max_tokens):
        self.calls += 1
        if self.dies_at is not None and self.calls > self.dies_at:
            raise KeyboardInterrupt
        if "JSON" not in prompt:
            self.pictures += len(pixels)
            return [f"a picture of Ann, shade {red}" for red, *_ in pixels]
        return ["no list" if red == 3 else json.dumps([{"name": f"thing {red}"}]) for red, *_ in pixels]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"p{number}.png")
    return folder


def described(photos, shades, out, **options):
    data = open_source(photos, captions="none")
    redact = options.pop("redact", None)
    options = {"model": "m", "batch_size": 2} | options
    return describe_source(SceneDescriber(shades, redact=redact), data, out, **options)


def rows(out):
    return [json.loads(line) for line in out.read_text("utf-8").split("\n") if line]


def test_every_picture_has_a_row(photos, tmp_path):
    out = tmp_path / "d.jsonl"
    report = described(photos, Shades(), out)
    assert (report.rows, report.described, dict(report.lists)) == (6, 6, {"json": 5, "none": 1})
    held = rows(out)
    assert [row["row"] for row in held] == list(range(6))
    assert held[0]["text"] == "a picture of Ann, shade 0 Objects: thing 0"
    assert held[3]["text"] == "a picture of Ann, shade 3"
    assert held[2]["image"] == str((photos / "p2.png").resolve())
    source = open_source(out)
    assert source[1]["text"] == ["a picture of Ann, shade 1 Objects: thing 1"]


def test_a_picture_is_described_once_and_a_killed_run_goes_on(photos, tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    shutil.copy(photos / "p1.png", photos / "q.png")
    described(photos, Shades(), whole)
    with pytest.raises(KeyboardInterrupt):
        described(photos, Shades(dies_at=5), killed)  # two answers a batch: in its third
    assert not killed.exists()
    assert len(answers_beside(killed).read_text().splitlines()) == 4
    with answers_beside(killed).open("a") as file:
        file.write('{"key": "m 12", "pict')  # the line that it was at
    again = Shades()
    report = described(photos, again, killed)
    assert (again.pictures, report.described, report.rows) == (2, 2, 7)
    assert rows(killed) == rows(whole)
    none = Shades()
    assert described(photos, none, killed).described == none.calls == 0


def test_other_models_and_prompts_are_others(photos, tmp_path):
    out = tmp_path / "d.jsonl"
    described(photos, Shades(), out)
    assert described(photos, Shades(), out, model="another").described == 6
    data, model = open_source(photos, captions="none"), Shades()
    describe_source(SceneDescriber(model, scene_tokens=9), data, out, model="m")
    assert model.pictures == 6
    assert described(photos, Shades(), out).described == 0


def test_an_edited_text_stays_and_the_others_follow_the_settings(photos, tmp_path):
    out = tmp_path / "d.jsonl"
    described(photos, Shades(), out)
    held = rows(out)
    held[4]["text"] = mine = "my\u2028own\x85words"  # which some take for ends of lines
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in held), "utf-8")
    for _ in range(2):
        report = described(photos, Shades(), out, texts=TextSettings(form="json"))
        assert (report.edited, report.described) == (1, 0)
        assert rows(out)[4]["text"] == mine
        assert rows(out)[1]["text"] == rows(out)[1]["scene"]
    held[4]["text"] = " "
    out.write_text("".join(json.dumps(row) + "\n" for row in held))
    with pytest.raises(UserError, match=r"line 5 has no text"):
        described(photos, Shades(), out)
    out.write_text('{"text": "a"}\n')
    with pytest.raises(UserError, match=r"line 1 is no description"):
        described(photos, Shades(), out)


def test_edited_texts_are_not_lost_where_their_pictures_are_not_read(photos, tmp_path):
    out, other = tmp_path / "d.jsonl", tmp_path / "other.jsonl"
    described(photos, Shades(), out)
    held = rows(out)
    held[4]["text"] = "my own words"
    out.write_text("".join(json.dumps(row) + "\n" for row in held))
    before = out.read_text()
    (photos / "z.png").write_bytes(b"no picture")
    assert described(photos, Shades(), out, max_skipped=0.5).edited == 1
    with pytest.raises(UserError, match=r"d\.jsonl holds texts edited by hand of 1 pictures .* name another --out"):
        described(photos, Shades(), out, limit=3, max_skipped=0.5)
    (photos / "p4.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"name another --out"):
        described(photos, Shades(), out, max_skipped=0.5)
    assert out.read_text() == before
    assert described(photos, Shades(), other, limit=3).rows == 3


def test_what_is_redacted_is_nowhere(photos, tmp_path):
    out = tmp_path / "d.jsonl"
    described(photos, Shades(), out, redact=lambda text: text.replace("Ann", "someone"))
    assert "Ann" not in out.read_text() + answers_beside(out).read_text()
    assert "someone" in rows(out)[0]["text"]
    plain = tmp_path / "plain.jsonl"
    described(photos, Shades(), plain)
    described(photos, Shades(), plain, redact=lambda text: text.replace("Ann", "someone"))
    assert "Ann" not in plain.read_text()


def test_texts_that_are_cut_are_counted(photos, tmp_path):
    report = described(photos, Shades(), tmp_path / "d.jsonl", texts=TextSettings(tokens=7))
    assert (report.cut, report.words_left_out, report.objects_left_out) == (5, 0, 5)


def test_a_picture_that_cannot_be_read_is_listed(photos, tmp_path):
    (photos / "p5.png").write_bytes(b"no picture")
    skipped = Skipped()
    report = described(photos, Shades(), tmp_path / "d.jsonl", max_skipped=0.5, skipped=skipped)
    assert (report.rows, skipped.count) == (5, 1)
    with pytest.raises(UserError, match="1 of the 6 records read could not be used"):
        described(photos, Shades(), tmp_path / "e.jsonl")


def test_pictures_in_memory_have_no_file(tmp_path):
    picture = Image.new("RGB", (4, 4), (7, 0, 0))
    data = Records([{"image": picture}, {"image": picture.copy()}], name="two")
    report = describe_source(SceneDescriber(Shades()), data, tmp_path / "d.jsonl", model="m")
    assert (report.rows, report.described) == (2, 1)
    assert rows(tmp_path / "d.jsonl")[0]["image"] is None
    assert picture_digest(picture) != picture_digest(Image.new("RGB", (4, 4), (8, 0, 0)))
    assert picture_digest(b"a") == picture_digest({"bytes": b"a", "path": None})
    with pytest.raises(BadImage):
        picture_digest(tmp_path / "none.png")


def test_lines_that_are_appended_are_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    with AppendedLines(path, "writing") as file:
        file.add({"n": 0}, {"n": 1})
        with pytest.raises(UserError, match=r"another process is writing a\.jsonl"):
            AppendedLines(path, "writing")
    path.write_bytes(path.read_bytes() + b'{"n": 2}\n{"n": 3')
    with AppendedLines(path, "writing") as file:
        assert [line["n"] for line in file.lines] == [0, 1, 2]
        file.add({"n": "é"})
    assert path.read_bytes().count(b"\n") == 4
    with AppendedLines(path, "writing") as file:
        assert file.lines[-1] == {"n": "é"}
        file.begin_afresh()
        file.add(5)
    assert path.read_text() == "5\n"
