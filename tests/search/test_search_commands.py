"""The commands as a newcomer types them, over a folder of pictures, with the toy encoder for a model."""

import json
import re
import shlex
import sys

import numpy as np
import pytest

import nearfar.models
from nearfar import cli
from nearfar.embedding.embeddings import Embeddings
from nearfar.search import Index
from search.colours import ColourEncoder, draw


@pytest.fixture(autouse=True)
def colours_by_name(monkeypatch):
    """`nearfar.models.load` knows two models: "colours", and "other" that sees otherwise."""
    known = {"colours": ColourEncoder(), "other": ColourEncoder(turn=0.5)}
    monkeypatch.setattr(nearfar.models, "load", lambda name, **_: known[name])


@pytest.fixture
def captioned(photos):
    for path in photos.glob("*.png"):
        path.with_suffix(".txt").write_text(f"a {path.stem.replace('-', ' ')}")
    return photos


@pytest.fixture
def made(captioned, tmp_path, capsys):
    cli.main(["index", "colours", str(captioned), "--out", str(tmp_path / "index")])
    capsys.readouterr()
    return tmp_path / "index"


def test_index_counts_and_extends(captioned, tmp_path, capsys):
    command = ["index", "colours", str(captioned), "--out", str(tmp_path / "index")]
    cli.main(command)
    said = capsys.readouterr().out
    assert "9 added" in said
    assert "9 pictures, 7-d, flat" in said
    draw("yellow").save(captioned / "yellow-disc.png")
    (captioned / "yellow-disc.txt").write_text("a yellow disc")
    (captioned / "red-bar.png").unlink()
    (captioned / "red-bar.txt").unlink()
    cli.main(command)
    assert "1 added, 8 unchanged, 1 removed" in capsys.readouterr().out
    assert len(Index(tmp_path / "index")) == 9


def test_search_prints_a_table_and_its_cost(made, capsys):
    cli.main(["search", "something red", "--index", str(made), "--top", "3"])
    said = capsys.readouterr().out
    assert len(re.findall(r"a red (disc|square|bar)", said)) == 3
    assert re.search(r"9 pictures; embed [\d.]+ ms, search [\d.]+ ms", said)


def test_search_composes_and_speaks_json(made, captioned, capsys):
    picture = str(captioned / "red-disc.png")
    flags = ["--index", str(made), "--plus", "blue", "--plus", "blue", "--minus", "red", "--top", "2", "--json"]
    cli.main(["search", "--image", picture, *flags])
    hits = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in hits] == [1, 2]
    assert all("blue" in hit["caption"] for hit in hits)
    assert hits[0]["path"].endswith(".png")


def test_search_writes_a_gallery_that_needs_nothing_else(made, captioned, tmp_path, capsys):
    (captioned / "green-disc.png").unlink()
    page = tmp_path / "out" / "gallery.html"
    picture = str(captioned / "red-disc.png")
    cli.main(["search", "<script>red</script>", "--image", picture, "--index", str(made), "--html", str(page)])
    content = page.read_text("utf-8")
    assert content.count("data:image/webp;base64,") == 9 + 1
    assert "<script>" not in content
    assert not re.search(r"https?://|src=\"(?!data:)", content)


def test_embed_writes_what_can_be_read_back(captioned, tmp_path, capsys):
    out = tmp_path / "embeddings.safetensors"
    cli.main(["embed", "colours", str(captioned), "--out", str(out)])
    embeddings = Embeddings.load(out)
    assert embeddings.image.shape == embeddings.text.shape == (9, 7)
    np.testing.assert_allclose(embeddings.image.norm(dim=1), 1, rtol=1e-5)
    assert sorted(embeddings.captions)[0] == "a blue bar"
    with pytest.raises(SystemExit, match=r"written as \.safetensors"):
        cli.main(["embed", "colours", str(captioned), "--out", "x.pkl"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "red", "--index", "NOWHERE"], "does not exist: make one with"),
        (["search", "--index", "INDEX"], "nothing to look for"),
        (["search", "red", "--index", "INDEX", "--model", "other"], "not the model that made the index"),
        (["search", "red", "--index", "INDEX", "--image", "NOWHERE"], "no such file"),
        (["index", "other", "PHOTOS", "--out", "INDEX"], "not the model that made the index"),
        (["serve", "--index", "NOWHERE"], "does not exist: make one with"),
        (["index", "colours", "PHOTOS", "--out", "FILE"], "FILE is a file, and a folder is to be written there"),
        (["index", "colours", "PHOTOS", "--out", "INDEX", "--batch-size", "0"], "batch_size is 0, but must be 1"),
        (["embed", "colours", "PHOTOS", "--out", "FILE/a.safetensors"], "FILE is a file, and a folder"),
        (["search", "red", "--index", "INDEX", "--top", "0"], "at least 1"),
        (["search", "red", "--index", "INDEX", "--html", "PHOTOS"], "is a folder: name a file to write"),
    ],
)
def test_mistakes_are_answered_in_one_line(made, captioned, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("mine")
    places = {"INDEX": str(made), "PHOTOS": str(captioned), "NOWHERE": str(tmp_path / "nowhere")}
    with pytest.raises(SystemExit, match=message):
        cli.main([places.get(argument, argument) for argument in arguments])


def test_serve_says_which_package_is_missing_and_which_port_is_taken(made, monkeypatch):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"cannot listen on 127.0.0.1:{port}"):
            cli.main(["serve", "--index", str(made), "--port", str(port)])
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit, match=r"nearfar\[serve\]"):
        cli.main(["serve", "--index", str(made)])


def test_what_is_skipped_is_summed_up_and_listed_in_a_file(captioned, tmp_path, capsys):
    """One line for each reason, whatever the number of files; all of them in a list, which goes when nothing is."""
    for number in range(12):
        draw("red").save(captioned / f"bare{number}.png")
        (captioned / f"broken{number}.png").write_bytes(b"no picture")
        (captioned / f"broken{number}.txt").write_text("a red thing")
    files = {"index": tmp_path / "made", "embed": tmp_path / "made.safetensors"}
    lists = {"index": tmp_path / "made" / "skipped.txt", "embed": tmp_path / "made.skipped.txt"}
    for command, out in files.items():
        cli.main([command, "colours", str(captioned), "--out", str(out), "--max-skipped", "0.9"])
        said = capsys.readouterr().out
        assert "24 skipped:" in said
        assert re.search(r"bare0\.png: no caption: there is no 'bare0\.txt' \(and 11 more alike\)", said)
        assert re.search(r"broken0\.png.*not an image that can be read \(and 11 more alike\)", said)
        assert f"listed in {lists[command]}" in said
        assert len(said.splitlines()) < 12
        assert len(lists[command].read_text("utf-8").splitlines()) == 25
    for path in [*captioned.glob("bare*"), *captioned.glob("broken*")]:
        path.unlink()
    for command, out in files.items():
        cli.main([command, "colours", str(captioned), "--out", str(out)])
        assert not lists[command].exists()
        assert " skipped" not in capsys.readouterr().out


def test_the_last_lines_of_index_run_as_they_are_printed(captioned, tmp_path, capsys):
    out = tmp_path / "an index"
    cli.main(["index", "colours", str(captioned), "--out", str(out)])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    (search,) = [line for line in lines if line.startswith("nearfar search ")]
    assert f"nearfar serve --index '{out}'" in lines
    cli.main(shlex.split(search)[1:])
    assert "a blue bar" in capsys.readouterr().out
