"""The share of unusable records that a user allows counts from the opening of the data to the end of every command."""

import io
import tarfile

import pytest

from data.five_captions import CAPTIONS, Knows, as_csv
from nearfar import cli
from nearfar.data import open_source
from nearfar.errors import UserError
from search.colours import draw, png

COLOURS = ("red", "green", "blue", "yellow", "black", "white", "grey", "orange", "pink", "brown")


def picture(i):
    """Another one for each number: adapt holds out things, not copies of them."""
    image = draw(("red", "green", "blue", "yellow")[i % 4], "disc")
    image.putpixel((i, 0), (i, 0, 0))
    return png(image)


def folder(place):
    place.mkdir()
    for i, colour in enumerate(COLOURS):
        for j, shape in enumerate(("disc", "square")):
            (place / f"a {colour} {shape}.png").write_bytes(picture(2 * i + j))
    for i in range(8):
        (place / f"broken {i}.png").touch()
    return place


def shards(place):
    place = place.with_suffix(".tar")
    with tarfile.open(place, "w") as tar:
        for i in range(28):
            members = {f"{i:02}.txt": f"a {COLOURS[i % 10]} thing {i}".encode()}
            if i < 20:
                members[f"{i:02}.png"] = picture(i)
            for name, content in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return place


@pytest.fixture(params=[folder, shards], ids=["a folder", "shards"])
def data(request, tmp_path):
    """28 records, 8 of them without a picture that can be read."""
    return request.param(tmp_path / "photos")


COMMANDS = {
    "embed": ["embed", "starter", "DATA", "--out", "e.safetensors"],
    "index": ["index", "starter", "DATA", "--out", "index"],
    "evaluate": ["evaluate", "starter", "--on", "DATA", "--protocols", "retrieval"],
    "adapt": ["adapt", "DATA", "--out", "adapted"],
    "train": ["train", "clip", "data.train=DATA", "steps=1", "training.batch_size=4", "workers=0"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_error_offers_helps(command, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("DATA", str(data)) for word in COMMANDS[command]]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert "8 of the 28 records read could not be used, more than the 10% allowed" in str(stop.value.code)
    assert "max_skipped=SHARE" in str(stop.value.code)
    cli.main([*words, *(["data.max_skipped=0.5"] if command == "train" else ["--max-skipped", "0.5"])])
    assert "8 skipped" in capsys.readouterr().out


def test_what_is_said_of_one_source_goes_first(tmp_path):
    from nearfar.training.recipe.recipe_data import open_spec

    photos = folder(tmp_path / "photos")
    assert len(open_spec("data.train", {"spec": str(photos), "max_skipped": 0.5}, max_skipped=0.1)) == 20
    with pytest.raises(UserError, match="more than the 0% allowed"):
        open_spec("data.train", {"spec": str(photos), "max_skipped": 0.0}, max_skipped=0.5)


def test_joined_sources_share_it_and_others_judge_as_they_read(tmp_path):
    photos = folder(tmp_path / "photos")
    joined = open_source(f"world/clipart + {photos}", split=None, max_skipped=0.5)
    assert len(joined) == len(open_source("world/clipart")) + 20
    (tmp_path / "a.csv").write_text("image,text\nnone.png,a\n")
    assert len(open_source(tmp_path / "a.csv", max_skipped=0.0)) == 1


def test_evaluate_lists_what_it_could_not_read_beside_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nearfar.models.loading.load", lambda name, **options: Knows())
    as_csv(tmp_path / "five")
    (tmp_path / "five" / "3.png").write_bytes(b"no picture")
    words = ["evaluate", "knows", "--on", str(tmp_path / "five" / "t.csv"), "--protocols", "retrieval"]
    cli.main([*words, "--json", str(tmp_path / "r.json")])
    assert f"listed in {tmp_path / 'r.skipped.txt'}" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    listed = (tmp_path / "r.skipped.txt").read_text("utf-8")
    assert listed.count("3.png: not an image that can be read") == CAPTIONS
    cli.main(words)
    assert f"{CAPTIONS} skipped that could not be read: `nearfar embed` lists them, and so does --json FILE" in (
        capsys.readouterr().out
    )
