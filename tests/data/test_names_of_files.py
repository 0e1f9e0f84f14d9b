"""Names of files as disks hold them: bytes that are not UTF-8, line ends, quotes, dashes, emoji, very long ones."""

import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

import nearfar.models
from nearfar import cli, files
from nearfar.data import Loader, folder, open_source, table, train_tokenizer
from nearfar.embedding.embeddings import Embeddings
from nearfar.errors import UserError
from nearfar.search import Index, query
from nearfar.search.index.building import build
from search.colours import ColourEncoder, draw, png

NOT_UTF8 = [b"caf\xe9", b"caf\xe8"]
ODD = [*NOT_UTF8, b"new\nline", b"quote\"s'", b"-dash", "😀 smile".encode(), b"x" * 240, b"[bold]", b"\x1b[31m"]


@pytest.fixture(autouse=True)
def colours(monkeypatch, tmp_path_factory):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(nearfar.models, "load", lambda name, **_: ColourEncoder())


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures whose names are odd, each with a caption beside it, under a path that is odd, too."""
    place = os.fsencode(tmp_path / "photos")
    os.mkdir(place)
    for i, name in enumerate(ODD):
        colour = ["red", "green", "blue"][i % 3]
        with open(place + b"/" + name + b".png", "wb") as file:
            draw(colour).resize((16, 16 + i)).save(file, "PNG")
        with open(place + b"/" + name + b".txt", "wb") as file:
            file.write(f"{colour} number {i}".encode())
    return os.fsdecode(place)


def caption_of(name):
    return [f"{['red', 'green', 'blue'][ODD.index(name) % 3]} number {ODD.index(name)}"]


def test_a_folder_reads_all_of_them(photos):
    source = folder(photos)
    assert {os.fsencode(os.path.basename(r["image"]))[:-4]: r["text"] for r in source} == {
        name: caption_of(name) for name in ODD
    }
    tokenizer = train_tokenizer(source.texts(), 300)
    loader = Loader(source, batch_size=len(ODD), image_size=8, tokenizer=tokenizer)
    assert next(iter(loader))["image"].shape[0] == len(ODD)
    assert not loader.skipped


def test_embed_writes_names_that_lead_back_to_the_files(photos, tmp_path, capsys):
    cli.main(["embed", "colours", photos, "--out", str(tmp_path / "e.safetensors")])
    names = Embeddings.load(tmp_path / "e.safetensors").names
    assert sorted(map(os.fsencode, names)) == sorted(os.fsencode(photos) + b"/" + name + b".png" for name in ODD)
    assert all(map(os.path.isfile, names))


def test_index_and_search_find_them(photos, tmp_path, capsys):
    command = ["index", "colours", photos, "--out", str(tmp_path / "index")]
    cli.main(command)
    assert f"{len(ODD)} added" in capsys.readouterr().out
    cli.main(command)
    assert f"{len(ODD)} unchanged" in capsys.readouterr().out
    cli.main(["search", "red", "--index", str(tmp_path / "index"), "--json", "--html", str(tmp_path / "g.html")])
    hits = json.loads(capsys.readouterr().out)
    assert [caption_of(ODD[0])[0] in hit["captions"] for hit in hits].count(True) == 1
    results = query(Index(tmp_path / "index"), ColourEncoder(), text="red", top=len(ODD))
    assert all(hit.image().size[0] == 16 for hit in results)
    kept = {hit.caption: hit for hit in results}[caption_of(NOT_UTF8[0])[0]]
    assert kept.path is None
    assert kept.key.endswith("caf\\udce9.png")


def test_evaluate_writes_its_files(photos, tmp_path):
    cli.main(["evaluate", "colours", "--on", photos, "--json", str(tmp_path / "r.json"), "--report", str(tmp_path)])
    assert json.loads((tmp_path / "r.json").read_text("utf-8"))["about"]["on"] == photos
    assert "red number 0" in (tmp_path / "report.html").read_text("utf-8")


def test_a_folder_whose_own_name_is_not_utf8(photos, tmp_path, capsys):
    place = os.fsdecode(os.fsencode(tmp_path) + b"/f\xe9lder")
    os.rename(photos, place)
    cli.main(["index", "colours", place, "--out", str(tmp_path / "index")])
    cli.main(["embed", "colours", place, "--out", str(tmp_path / "e.safetensors")])
    cli.main(["evaluate", "colours", "--on", place, "--json", str(tmp_path / "r.json")])
    assert os.path.isdir(json.loads((tmp_path / "r.json").read_text("utf-8"))["about"]["on"])
    with pytest.raises(SystemExit, match="a name that is not UTF-8 text: rename it"):
        cli.main(["train", "clip", f"data.train={place}"])


def test_names_that_are_no_caption_and_no_class_are_counted(tmp_path):
    place = os.fsencode(tmp_path)
    for i in range(20):
        (tmp_path / f"red_{i}.png").write_bytes(png(draw("red")))
    with open(place + b"/caf\xe9 cr\xe8me.png", "wb") as file:
        file.write(png(draw("red")))
    source = folder(tmp_path, captions="name")
    assert (len(source), source.skipped.count) == (20, 1)
    assert "caf\\udce9 cr\\udce8me.png: no caption: the name is not UTF-8 text: rename it" in str(source.skipped)
    for name in (b"/dog", b"/cat", b"/\xe9lan"):
        os.mkdir(place + name)
    for i in range(20):
        os.rename(tmp_path / f"red_{i}.png", tmp_path / ("dog" if i % 2 else "cat") / f"{i}.png")
    os.rename(place + b"/caf\xe9 cr\xe8me.png", place + b"/\xe9lan/1.png")
    source = folder(tmp_path)
    assert (source.classes, source.skipped.count) == (["cat", "dog"], 1)
    assert "udce9lan/1.png: no class: the name of its folder is not UTF-8" in str(source.skipped)


def test_a_table_cannot_name_them_and_says_so(tmp_path):
    (tmp_path / "t.jsonl").write_text(
        json.dumps({"image": "a.png", "text": "x"}) + '\n{"image": "\\udce9", "text": ""}'
    )
    with pytest.raises(
        UserError, match="line 2 holds half a character, as the name of a file that is not UTF-8: rename"
    ):
        table(tmp_path / "t.jsonl")


def test_a_table_of_the_folder_counts_the_pictures_it_cannot_name(photos, tmp_path):
    rows = [{"file_name": os.fsdecode(n) + ".png", "text": "x"} for n in ODD if n not in NOT_UTF8]
    (tmp_path / "photos" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = folder(photos)
    assert (len(source), source.skipped.count) == (len(ODD) - 2, 2)
    assert "caf\\udce8.png: no caption" in str(source.skipped)


def test_shards_that_hold_them(tmp_path, capsys):
    with tarfile.open(tmp_path / "s.tar", "w") as shard:
        for name in ODD:
            for ending, data in ((".png", png(draw("red"))), (".txt", b"red")):
                info = tarfile.TarInfo(os.fsdecode(name) + ending)
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    source = open_source(tmp_path / "s.tar")
    assert len(source) == len(ODD)
    assert source[0]["key"] == "caf\\udce9"
    cli.main(["index", "colours", str(tmp_path / "s.tar"), "--out", str(tmp_path / "index")])
    cli.main(["embed", "colours", str(tmp_path / "s.tar"), "--out", str(tmp_path / "e.safetensors")])


def test_a_list_of_skipped_files_has_one_line_for_each(tmp_path):
    place = os.fsencode(tmp_path)
    for name in ODD:
        with open(place + b"/" + name + b".png", "wb") as file:
            file.write(b"")
    skipped = folder(tmp_path, max_skipped=1, captions="txt").skipped
    lines = skipped.listing().splitlines()
    assert len(lines) == skipped.count == len(ODD)
    assert all(line.isprintable() and line.encode() for line in lines)


def test_a_name_in_a_message_is_one_line():
    assert files.one_line("a\nb\x1b\udcff\u202e😀") == "a\\nb\\x1b\\udcff\\u202e😀"


def test_output_of_commands_takes_any_name():
    code = "from nearfar import cli; cli.main(['papers']); print('caf\\udce9 \u2014')"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"}, check=True
    )
    assert said.stdout.splitlines()[-1] == b"caf\\udce9 \\u2014"


def test_index_of_a_stream_of_records(tmp_path, photos):
    index = build(ColourEncoder(), iter(folder(photos)), tmp_path / "index", name="stream")
    assert len(index) == len(ODD)
