"""An index is data: whatever its files say, it opens right or is refused by a sentence, and nothing outside is touched.

The damages are made here, of small indices of the test's own.
"""

import json
import os

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nearfar import cli
from nearfar.data.sources.source import Records
from nearfar.errors import UserError
from nearfar.search import Index, build, query
from nearfar.search.index.writer import IndexWriter
from search.colours import COLOURS, ColourEncoder, draw, png

REMEDY = "is damaged: .*; delete it and make it anew with `nearfar index MODEL SOURCE --out "


def pictures(count: int = 12) -> Records:
    """Pictures that are bytes, each with its own colour and size."""
    colours = [name for name in COLOURS if name != "white"]
    made = [draw(colours[i % len(colours)], ("disc", "square", "bar")[i % 3]) for i in range(count)]
    return Records([{"image": png(image), "text": f"picture {i}", "index": i} for i, image in enumerate(made)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An index of each kind, built once."""
    where = tmp_path_factory.mktemp("whole")
    for kind in ("flat", "hnsw", "ivf"):
        build(ColourEncoder(), pictures(), where / kind, kind=kind, model="colours")
    return where


@pytest.fixture
def copy(whole, tmp_path):
    """A function that copies the index of a kind, to be damaged."""

    def copied(kind="flat"):
        target = tmp_path / "index"
        target.mkdir()
        for path in (whole / kind).iterdir():
            if path.name != ".lock":
                (target / path.name).write_bytes(path.read_bytes())
        return target

    return copied


def change(index, **values):
    path = index / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def without(index, key):
    path = index / "manifest.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != key}))


def rewrite_items(index, **columns):
    path = next(index.glob("items-*.parquet"))
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(values))
    pq.write_table(table, path)


def cut(index, pattern, share=0.5):
    path = next(index.glob(pattern))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def fill(index, value):
    path = next(index.glob("vectors-*.f32"))
    path.write_bytes(np.full(path.stat().st_size // 4, value, "<f4").tobytes())


def manifest(index, text):
    (index / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())


DAMAGES = {
    "count -1": lambda i: change(i, count=-1),
    "count too large": lambda i: change(i, count=13),
    "count too small": lambda i: change(i, count=11),
    "count huge": lambda i: change(i, count=10**30),
    "count true": lambda i: change(i, count=True),
    "count 12.0": lambda i: change(i, count=12.0),
    "count null": lambda i: change(i, count=None),
    "dim x": lambda i: change(i, dim="x"),
    "dim 0": lambda i: change(i, dim=0),
    "dim other": lambda i: change(i, dim=8),
    "dim huge": lambda i: change(i, dim=10**18),
    "serial negative": lambda i: change(i, serial=-5),
    "picture_bytes text": lambda i: change(i, picture_bytes="many"),
    "picture_bytes too small": lambda i: change(i, picture_bytes=1),
    "kind a list": lambda i: change(i, kind=["flat"]),
    "kind unknown": lambda i: change(i, kind="tree"),
    "kind of another graph": lambda i: change(i, graph="hnsw-1.faiss"),
    "recall of more than all": lambda i: change(i, recall=1.5),
    "recall a text": lambda i: change(i, recall="1"),
    "removed a number": lambda i: change(i, removed=3, format=2),
    "removed of texts": lambda i: change(i, removed=["1"], format=2),
    "removed of flags": lambda i: change(i, removed=[False, True], format=2),
    "removed twice": lambda i: change(i, removed=[3, 3], format=2),
    "removed in no order": lambda i: change(i, removed=[4, 3], format=2),
    "removed below": lambda i: change(i, removed=[-1], format=2),
    "removed behind the last": lambda i: change(i, removed=[12], format=2),
    "kept a list": lambda i: change(i, kept=["price"]),
    "kept of numbers": lambda i: change(i, kept={"a": [1]}),
    "model a number": lambda i: change(i, model=3),
    "graph_sum text": lambda i: change(i, graph_sum="1"),
    "sources a list": lambda i: change(i, sources=[1]),
    "sources of lists": lambda i: change(i, sources={"a": [1]}),
    "probe a number": lambda i: change(i, probe=1),
    "probe short": lambda i: change(i, probe=[[1.0], [1.0]]),
    "probe of texts": lambda i: change(i, probe=[["a"] * 7] * 2),
    "probe of huge numbers": lambda i: change(i, probe=[[10**400] * 7] * 2),
    "unknown key": lambda i: change(i, more=1),
    "no model": lambda i: without(i, "model"),
    "no vectors": lambda i: without(i, "vectors"),
    "no items": lambda i: without(i, "items"),
    "items empty": lambda i: change(i, items=""),
    "vectors null": lambda i: change(i, vectors=None),
    "a list": lambda i: manifest(i, "[]"),
    "a text": lambda i: manifest(i, '"flat"'),
    "no JSON": lambda i: manifest(i, "{"),
    "nothing": lambda i: manifest(i, ""),
    "not UTF-8": lambda i: manifest(i, b"\xff\xfe{}"),
    "nested deep": lambda i: manifest(i, "[" * 100_000),
    "vectors cut": lambda i: cut(i, "vectors-*"),
    "vectors NaN": lambda i: fill(i, np.nan),
    "vectors infinite": lambda i: fill(i, np.inf),
    "vectors zero": lambda i: fill(i, 0),
    "vectors long": lambda i: fill(i, 10.0),
    "vectors missing": lambda i: next(i.glob("vectors-*")).unlink(),
    "pictures missing": lambda i: next(i.glob("pictures-*")).unlink(),
    "pictures cut": lambda i: cut(i, "pictures-*"),
    "items missing": lambda i: next(i.glob("items-*")).unlink(),
    "items cut": lambda i: cut(i, "items-*"),
    "items empty file": lambda i: cut(i, "items-*", 0),
    "items a folder": lambda i: (next(i.glob("items-*")).unlink(), (i / "items-1.parquet").mkdir()),
    "rows in another order": lambda i: rewrite_items(i, row=[*range(1, 12), 0]),
    "rows outside": lambda i: rewrite_items(i, row=[*range(11), 99]),
    "rows as texts": lambda i: rewrite_items(i, row=[str(n) for n in range(12)]),
    "offset negative": lambda i: rewrite_items(i, offset=[-1] * 12),
    "length huge": lambda i: rewrite_items(i, length=[2**62] * 12),
    "offset and length overflow": lambda i: rewrite_items(i, length=[2**63 - 1] * 12, offset=[2**63 - 1] * 12),
    "keys missing": lambda i: rewrite_items(i, key=pa.array([None] * 12, pa.string())),
    "keys twice": lambda i: rewrite_items(i, key=["a"] * 12),
    "a caption of null": lambda i: rewrite_items(i, captions=pa.array([[None]] * 12, pa.list_(pa.string()))),
}
GRAPH = {
    "cut": lambda i: cut(i, "*.faiss"),
    "empty": lambda i: cut(i, "*.faiss", 0),
    "missing": lambda i: next(i.glob("*.faiss")).unlink(),
    "of fewer": lambda i: graph(i, count=6),
    "of another width": lambda i: graph(i, dim=5),
    "of another kind": lambda i: faiss.write_index(faiss.IndexFlatIP(7), str(next(i.glob("*.faiss")))),
    "of other vectors": lambda i: graph(i, turned=True),
}


def graph(index, count=12, dim=7, turned=False):
    """Another graph in the place of the index's own."""
    from nearfar.search.kinds.graphs import build_graph

    path = next(index.glob("*.faiss"))
    vectors = np.fromfile(next(index.glob("vectors-*")), "<f4").reshape(-1, 7)[:count, :dim]
    path.write_bytes(build_graph(path.name.partition("-")[0], -vectors[::-1] if turned else vectors))


def use(where):
    """What `search` and `serve` do: open, look at the model, search."""
    encoder = ColourEncoder()
    index = Index(where)
    from nearfar.search.index.identity import check_model

    check_model(index.manifest, encoder, where=str(where))
    index.labels()
    hits = query(index, encoder, text="red", top=12).hits
    return [(hit.key, hit.caption, round(hit.score, 3), hit.image().tobytes()) for hit in hits]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_index_is_refused_by_a_sentence(copy, damage):
    where = copy()
    DAMAGES[damage](where)
    with pytest.raises(UserError, match=REMEDY):
        use(where)


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("damage", GRAPH)
@pytest.mark.parametrize("summed", [True, False])
def test_a_graph_that_does_not_fit_is_refused_by_a_sentence(copy, kind, damage, summed):
    where = copy(kind)
    if not summed:  # as an index that was made before graphs had checksums
        change(where, graph_sum=None)
    GRAPH[damage](where)
    with pytest.raises(UserError, match=REMEDY):
        use(where)


@pytest.mark.parametrize("damage", ["count -1", "items cut", "a list", "rows in another order", "dim x"])
def test_an_index_that_is_damaged_is_not_added_to(copy, damage):
    where = copy()
    DAMAGES[damage](where)
    before = {path.name: path.read_bytes() for path in where.iterdir()}
    with pytest.raises(UserError, match=REMEDY):
        build(ColourEncoder(), pictures(14), where)
    assert {path.name: path.read_bytes() for path in where.iterdir() if path.name != ".lock"} == before


@pytest.mark.parametrize("command", ["search", "serve", "index"])
def test_every_command_gives_the_sentence(copy, command, tmp_path, monkeypatch):
    where = copy()
    DAMAGES["dim x"](where)
    monkeypatch.setattr("nearfar.models.load", lambda name: ColourEncoder())
    draw("red", "disc").save(tmp_path / "a.png")
    (tmp_path / "p.csv").write_text("image,text\na.png,a\n")
    words = {
        "search": ["red", "--index", where],
        "serve": ["--index", where],
        "index": ["colours", tmp_path / "p.csv", "--out", where],
    }[command]
    with pytest.raises(SystemExit, match=f"nearfar {command}: the index .* is damaged: dim in manifest.json is 'x'"):
        cli.main([command, *map(str, words)])


@pytest.mark.parametrize("key", ["vectors", "pictures", "items", "graph"])
@pytest.mark.parametrize(
    "name", ["../outside", "{outside}", "sub/vectors-0.f32", "manifest.json", ".", "..", "a\0b", 7]
)
def test_names_that_lead_outside_are_refused_and_nothing_there_is_touched(copy, tmp_path, key, name):
    where, outside = copy("hnsw"), tmp_path / "outside"
    outside.write_bytes(bytes(10_000))
    (where / "sub").mkdir()
    change(where, **{key: name.format(outside=outside) if isinstance(name, str) else name})
    for use_it in (Index, IndexWriter.extend, lambda place: build(ColourEncoder(), pictures(14), place)):
        with pytest.raises(UserError, match=REMEDY):
            use_it(where)
    assert outside.read_bytes() == bytes(10_000)


@pytest.mark.parametrize("pattern", ["vectors-*", "pictures-*", "items-*", ".lock"])
def test_a_link_that_leads_outside_is_refused_and_nothing_there_is_touched(copy, tmp_path, pattern):
    where, outside = copy(), tmp_path / "outside"
    outside.write_bytes(bytes(10_000))
    (where / ".lock").touch()
    link = next(where.glob(pattern))
    link.unlink()
    link.symlink_to(outside)
    with pytest.raises(UserError, match=REMEDY):
        build(ColourEncoder(), pictures(14), where)
    assert outside.read_bytes() == bytes(10_000)


def test_what_is_to_be_written_is_not_written_through_a_link(copy, tmp_path):
    where, outside = copy(), tmp_path / "outside"
    outside.write_bytes(b"mine")
    for name in ("vectors-2.f32", "pictures-2.bin", "items-2.parquet"):
        (where / name).symlink_to(outside)
    build(ColourEncoder(), pictures(9), where, name="records")  # three go, so that all is copied to new files
    assert outside.read_bytes() == b"mine"
    assert len(Index(where)) == 9


def test_a_picture_that_is_no_file_any_more_is_not_waited_for(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(draw("red", "disc")))
    index = build(ColourEncoder(), Records([{"image": str(path), "text": "a"}]), tmp_path / "index")
    path.unlink()
    os.mkfifo(path)
    hit = query(index, ColourEncoder(), text="red").hits[0]
    with pytest.raises(UserError, match=r"^\S+a\.png is not a regular file: .* index again$"):
        hit.image()


@pytest.mark.parametrize("pattern", ["manifest.json", "items-*", "vectors-*", "pictures-*"])
def test_chance_damage_gives_right_results_or_a_sentence(copy, pattern):
    where = copy()
    right, path = use(where), next(where.glob(pattern))
    content = path.read_bytes()
    rng, refused = np.random.default_rng(11), 0
    for _ in range(60):
        broken = np.frombuffer(content, np.uint8).copy()
        broken[rng.integers(0, len(broken), rng.integers(1, 4))] ^= np.uint8(1 << rng.integers(0, 8))
        path.write_bytes(broken[: rng.integers(1, len(broken)) if rng.random() < 0.3 else None].tobytes())
        try:
            got = use(where)
        except UserError:
            refused += 1
            continue
        if pattern in ("manifest.json", "items-*"):
            assert got == right
        assert len(got) == len(right)
    assert refused >= 20


def test_a_letter_that_changed_in_a_page_of_the_items_is_seen(tmp_path):
    """By the sum of the page alone: what is compressed there reads as well as before."""
    build(ColourEncoder(), Records([{"image": png(draw("red", "disc")), "text": "a zebra"}]), tmp_path / "index")
    path = next((tmp_path / "index").glob("items-*"))
    group, content = pq.ParquetFile(path).metadata.row_group(0), path.read_bytes()
    columns = (group.column(number) for number in range(group.num_columns))
    column = next(each for each in columns if each.path_in_schema == "captions.list.element")
    place = content.index(b"zebra", column.dictionary_page_offset, column.data_page_offset)
    path.write_bytes(content[:place] + b"Z" + content[place + 1 :])
    assert pq.ParquetFile(path).read(columns=["captions"]).to_pylist() == [{"captions": ["a Zebra"]}]
    with pytest.raises(UserError, match=REMEDY):
        Index(tmp_path / "index")


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_chance_damage_of_a_graph_never_reaches_faiss(copy, kind):
    where = copy(kind)
    path = next(where.glob("*.faiss"))
    content = path.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(40):
        broken = np.frombuffer(content, np.uint8).copy()
        broken[rng.integers(0, len(broken))] ^= np.uint8(1 << rng.integers(0, 8))
        path.write_bytes(broken.tobytes())
        with pytest.raises(UserError, match="has changed since it was written"):
            Index(where)
