"""A record's id: one meaning for batches, embeddings and features, whatever was selected, shuffled or resumed."""

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, PairedOrder, Records, concat
from nearfar.data.sources.record_numbers import record_id
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Source, Stream
from nearfar.embedding import embed
from nearfar.errors import UserError


def pets(n=10, **own):
    """Each picture's red is its place."""
    red = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(n)]
    return Records({"image": red[i], "text": f"pet {i}", **{k: make(i) for k, make in own.items()}} for i in range(n))


def place_of(picture):
    return (picture[:, 0, 0, 0] * 255).round().long()


def batches_of(source, **options):
    settings = {"batch_size": 2, "image_size": 8, "views": "none", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return Loader(source, **settings | options)


def odd(record):
    return int(record["text"].split()[1]) % 2 == 1


SOURCES = {
    "filter": (lambda source: source.filter(odd), {1, 3, 5, 7, 9}),
    "first": (lambda source: source.first(4), {0, 1, 2, 3}),
    "select": (lambda source: source.select([8, 2, 5, 2]), {2, 5, 8}),
    "slice of a filter": (lambda source: source.filter(odd)[1:4], {3, 5, 7}),
    "map": (lambda source: source.filter(odd).map(lambda r: {"image": r["image"], "text": "x"}), {1, 3, 5, 7, 9}),
    "filter of a concat": (lambda source: concat(source, source).filter(odd), {1, 3, 5, 7, 9, 11, 13, 15, 17, 19}),
}


@pytest.mark.parametrize("how", SOURCES)
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_names_the_records_of_the_whole_source(how, shuffle):
    change, expected = SOURCES[how]
    read = list(batches_of(change(pets()), shuffle=shuffle, drop_last=False))
    ids = torch.cat([batch["index"] for batch in read])
    assert set(ids.tolist()) == expected
    assert torch.equal(torch.cat([place_of(batch["image"]) for batch in read]), ids % 10)
    groups = torch.cat([batch["group"] for batch in read])
    # Both halves of the concat show the same pictures: those are one group each.
    assert len(set(groups.tolist())) == len(set((ids % 10).tolist()))
    assert how == "filter of a concat" or torch.equal(groups, ids)


@pytest.mark.parametrize("how", SOURCES)
def test_embeddings_name_the_same(how):
    class Encoder:
        image_size = 8

        def preprocess(self, images):
            return torch.tensor([[image.getpixel((0, 0))[0], 1.0] for image in images])

        def encode_image(self, pixels):
            return pixels

    change, _ = SOURCES[how]
    source = change(pets())
    read = embed(Encoder(), source, captions=0)
    batches = batches_of(source, batch_size=1, shuffle=False)
    assert read.index.tolist() == [batch["index"].item() for batch in batches]


def test_one_s_own_ids_are_kept():
    source = pets(index=lambda i: 1000 + 7 * i)
    ids = torch.cat([batch["index"] for batch in batches_of(source)])
    assert sorted(ids.tolist()) == [1000 + 7 * i for i in range(10)]
    ids = torch.cat([batch["index"] for batch in batches_of(source.filter(odd), drop_last=False)])
    assert sorted(ids.tolist()) == [1007, 1021, 1035, 1049, 1063]


def test_two_sources_never_share_an_id():
    """Both number their records from 0 and from 5: the whole counts anew."""
    both = concat(pets(5), pets(5, index=lambda i: i), pets(3, index=lambda i: 5 + i))
    ids = torch.cat([batch["index"] for batch in batches_of(both, batch_size=1)])
    assert sorted(ids.tolist()) == list(range(13))


def test_chance_goes_by_the_place_and_so_do_neighbours():
    """Numbering the records changes no batch but for the ids; neighbours name places, the batch names ids."""
    plain, numbered = pets(), pets(index=lambda i: 50 + i)
    near = (torch.arange(10)[:, None] + 1) % 10
    for options in ({}, {"order": PairedOrder(near)}):
        for a, b in zip(batches_of(plain, **options), batches_of(numbered, **options), strict=True):
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["index"] + 50, b["index"])
    drawn = next(iter(batches_of(numbered.filter(odd), batch_size=4, order=PairedOrder(near[:5] % 5))))["index"]
    assert all((b - a) % 10 == 2 for a, b in zip(drawn[:2].tolist(), drawn[2:].tolist(), strict=True))


def test_some_with_an_id_and_some_without_is_an_error():
    """The place of one could be the id of another."""
    for first, second in (({"index": 1}, {}), ({}, {"index": 0})):
        source = Records([{"text": "a cat", **first}, {"text": "a dog", **second}], name="pets")
        with pytest.raises(UserError, match=r"pets: record [01] has no index, and 1 of 2 records have one"):
            source.ids()


def test_resuming_keeps_ids():
    source = pets().filter(odd)
    first = batches_of(source, batch_size=1)
    whole = [batch["index"].item() for batch in first]
    again = batches_of(source, batch_size=1)
    iterator = iter(again)
    next(iterator), next(iterator)
    second = batches_of(source, batch_size=1)
    second.load_state_dict(again.state_dict())
    assert [batch["index"].item() for batch in second] == whole[2:]


class Parts(Stream):
    name, columns, parts = "parts", ("image", "text"), 2

    def __init__(self, **own):
        self.records = [*pets(6, **own)]

    def read(self, part, skip=0):
        yield from self.records[3 * part + skip : 3 * part + 3]


def test_a_stream_s_ids_are_its_own_or_part_and_place():
    class Encoder:
        def preprocess(self, images):
            return torch.ones(len(images), 2)

        def encode_image(self, pixels):
            return pixels

    ids = [i for batch in batches_of(Parts()) for i in batch["index"].tolist()]
    assert sorted(ids) == [0, 1, 2, 1 << 32, (1 << 32) + 1, (1 << 32) + 2]
    assert embed(Encoder(), Parts(), captions=0).index.tolist() == sorted(ids)
    own = [i for batch in batches_of(Parts(index=lambda i: 9 * i)) for i in batch["index"].tolist()]
    assert sorted(own) == [0, 9, 18, 27, 36, 45]


@pytest.mark.parametrize("bad", ["7f", 1.5, True, 2**63, [1]])
def test_an_id_that_is_no_whole_number_is_refused(bad):
    with pytest.raises(UserError, match=r"records, record 0: its index is .* an id is a whole number"):
        list(batches_of(pets(4, index=lambda i: bad), shuffle=False))


def test_numbers_of_other_libraries_are_ids():
    import numpy as np

    assert record_id({"index": np.int32(4)}, 0) == record_id({"index": torch.tensor(4)}, 0) == 4


def unless_three(record):
    if record["text"] == "pet 3":
        raise BadRecord("nothing is left of it")
    return record | {"text": record["text"].upper()}


def of_ids(first, **own):
    return pets(12, **own).select(range(first, 12)).map(unless_three)


@pytest.mark.parametrize(("first", "own"), [(0, {}), (3, {}), (1, {"index": lambda i: 100 + 7 * i})])
def test_a_mapped_source_with_an_unusable_record_has_ids_trains_and_embeds(first, own):
    class Encoder:
        def preprocess(self, images):
            return torch.ones(len(images), 2)

        def encode_image(self, pixels):
            return pixels

    source = of_ids(first, **own)
    name = own.get("index", lambda i: i)
    assert list(source.ids()) == [name(i) for i in range(first, 12)]
    loader = batches_of(source, max_skipped=0.5, drop_last=False)
    read = torch.cat([batch["index"] for batch in loader]).tolist()
    assert name(3) not in read
    assert set(read) <= set(source.ids())
    assert loader.skipped.count == 1
    embedded = embed(Encoder(), source, captions=0, max_skipped=0.5)
    assert embedded.index.tolist() == [name(i) for i in range(first, 12) if i != 3]
    assert embedded.skipped.count == 1


def test_columns_and_filters_pass_over_what_cannot_be_used():
    source = of_ids(0, age=lambda i: i)
    assert source.column("age") == list(range(12))
    assert source[2:5].column("index") == [2, 3, 4]
    assert concat(source, source).column("index") == list(range(24))
    kept = source.filter(lambda record: record["age"] % 2 == 1)
    assert kept.ids() == [1, 5, 7, 9, 11]
    assert (kept.skipped.count, source.skipped.count) == (1, 0)
    assert "record 3: nothing is left of it" in str(kept.skipped)


class Torn(Source):
    """Records with ids, of which the first can no longer be read."""

    columns = ("text", "index")

    def __len__(self):
        return 3

    def record(self, index):
        if index == 0:
            raise BadRecord("torn")
        return {"text": f"page {index}", "index": index - 1}


def test_a_record_that_was_never_read_has_an_id_that_no_other_has():
    assert Torn().ids() == [2, 0, 1]
    assert Torn().texts() == ["page 1", "page 2"]
    assert Torn().column("index") == [None, 0, 1]
