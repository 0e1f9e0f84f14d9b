"""Fields of modalities that nearfar does not know: a waveform, a clip, boxes. Each is one class, and all that the house
does with a batch works with them, whichever key comes first."""

from pathlib import Path

import pytest
import torch

from nearfar.data import BatchKey, Field, Loader, Records
from nearfar.data.batches import batch as batches
from nearfar.data.fields.number_field import NumberField
from nearfar.data.sources.skipped import BadRecord
from nearfar.data.sources.source import Stream
from nearfar.errors import UserError
from nearfar.modes import to_device

N = 13


class Waveform(Field):
    """`waveform` `[B, T]`: a stretch of T samples from a random start."""

    columns = ("sound",)

    def __init__(self, length):
        self.length, self.keys = length, {"waveform": BatchKey()}

    def prepare(self, record, chance):
        sound = torch.as_tensor(record["sound"])
        if len(sound) < self.length:
            raise BadRecord(f"{len(sound)} samples of sound are too few")
        start = chance.number("waveform") % (len(sound) - self.length + 1)
        return sound[start : start + self.length]

    def collate(self, parts, chance):
        return {"waveform": torch.stack(parts)}


class Clip(Field):
    """`clip` `[B, T, 3, H, W]`, with one random brightness for the whole clip, and the same twice in `clips`
    `[2, B, T, 3, H, W]`, the second dark."""

    columns, fixed = ("frames",), True

    def __init__(self):
        self.keys, self.reads = {"clip": BatchKey(), "clips": BatchKey(axis=1)}, 0

    def prepare(self, record, chance):
        self.reads += 1
        return record["frames"]

    def collate(self, parts, chance):
        light = torch.rand(chance.whole, generator=chance.generator("clip"))[list(chance.rows)]
        clip = torch.stack(parts) + light[:, None, None, None, None]
        return {"clip": clip, "clips": torch.stack([clip, 0 * clip])}


class Boxes(Field):
    """`boxes` `[B, K, 4]`, K the most that a picture of the batch has, filled up with zeros, and `box_count` `[B]`."""

    columns = ("boxes",)

    def __init__(self):
        self.keys = {"boxes": BatchKey(), "box_count": BatchKey(per_sample=True)}

    def prepare(self, record, chance):
        return torch.tensor(record["boxes"], dtype=torch.float32).view(-1, 4)

    def collate(self, parts, chance):
        return {
            "boxes": torch.nn.utils.rnn.pad_sequence(parts, batch_first=True),
            "box_count": torch.tensor([len(part) for part in parts]),
        }


def records(n=N, short=()):
    return [
        {
            "sound": torch.arange(4 if i in short else 20) + 100 * i,
            "frames": torch.full((2, 3, 4, 4), float(i)),
            "boxes": [[i, i, i + 1, i + 1]] * (i % 3),
        }
        for i in range(n)
    ]


def fields():
    return [Waveform(8), Clip(), Boxes()]


def loader(source=None, **options):
    return Loader(source or Records(records()), fields(), **{"batch_size": 4, "seed": 3} | options)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_batch_holds_what_the_fields_make_of_its_own_records():
    for batch in loader():
        assert batch["waveform"].shape == (4, 8)
        assert batch["clip"].shape == (4, 2, 3, 4, 4)
        assert torch.equal(batch["waveform"] // 100, batch["index"][:, None].expand(4, 8))
        assert torch.equal(batch["clip"][:, 0, 0, 0, 0].floor().long(), batch["index"])
        assert torch.equal(batch["box_count"], batch["index"] % 3)
        assert batch["boxes"].shape == (4, int(batch["box_count"].max()), 4)
        assert all(not boxes[n:].any() for boxes, n in zip(batch["boxes"], batch["box_count"], strict=True))


@pytest.mark.parametrize("first", ["waveform", "clip", "clips", "boxes", "box_count", "index"])
def test_whichever_key_comes_first(first):
    batch = next(iter(loader()))
    batch = {first: batch[first], **batch}
    if first != "index":
        del batch["index"]
    assert batches.size(batch) == 4
    assert batches.size({first: batch[first]}) == 4
    pieces = [batches.rows(batch, 0, 3, 4), batches.rows(batch, 3, 4, 4)]
    assert [batches.size(piece) for piece in pieces] == [3, 1]
    for key, value in batch.items():
        joined = torch.cat([piece[key] for piece in pieces], dim=1 if key == "clips" else 0)
        assert torch.equal(joined, value), key
    assert set(batches.per_sample(batch)) == {"index", "group", "box_count"} & set(batch)
    moved = to_device({"nested": batch}, "meta")["nested"]
    assert {value.device.type for value in moved.values()} == {"meta"}


@pytest.mark.parametrize("workers", [0, 2])
def test_it_goes_on_where_it_stopped(workers):
    expected = [*(whole := loader()), *whole, *whole]
    an_epoch = len(expected) // 3
    for stop in range(1, 6):
        first, count = loader(workers=workers), 0
        while count < stop:
            for _ in first:
                if (count := count + 1) == stop:
                    state = first.state_dict()
                    break
        second = loader(workers=workers)
        second.load_state_dict(state)
        rest = [*second, *second]
        assert len(rest) == -stop % an_epoch + an_epoch
        assert all(same(a, b) for a, b in zip(rest, expected[stop : stop + len(rest)], strict=True))


def test_processes_share_one_global_batch():
    ranks = [list(loader(batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    for whole, *parts in zip(loader(), *ranks, strict=True):
        for key in ("index", "waveform", "clip", "box_count"):
            assert torch.equal(torch.cat([part[key] for part in parts]), whole[key])
        assert torch.equal(torch.cat([part["clips"] for part in parts], dim=1), whole["clips"])


def test_a_stream_s_fields():
    class Sounds(Stream):
        name, columns, parts = "sounds", ("sound", "frames", "boxes"), 2

        def read(self, part, skip=0):
            yield from records(6)[skip:]

    batches_read = list(loader(Sounds(), shuffle=False))
    assert [batch["index"].tolist() for batch in batches_read][1] == [4, 5, 1 << 32, (1 << 32) + 1]
    assert batches_read[1]["box_count"].tolist() == [1, 2, 0, 1]


def test_a_record_that_a_field_refuses_is_replaced_and_listed():
    batches_ = loader(Records(records(20, short=[7]), name="songs"))
    order = [i for batch in batches_ for i in batch["index"].tolist()]
    assert len(order) == 20
    assert 7 not in order
    assert str(next(iter(batches_.skipped))) == "songs, record 7: 4 samples of sound are too few"


def test_what_is_fixed_is_prepared_once_and_what_is_not_each_epoch():
    whole = loader(Records(records(12)))
    clip = next(field for field in whole.fields if isinstance(field, Clip))
    first, second = (torch.cat([b["waveform"] for b in whole]).sort(0).values for _ in range(2))
    assert clip.reads == 12
    assert not torch.equal(first, second)  # other stretches of the same sounds
    uncached = loader(Records(records(12)), cache=0)
    clip = next(field for field in uncached.fields if isinstance(field, Clip))
    list(uncached), list(uncached)
    assert clip.reads == 24


def test_a_number_of_one_s_own():
    source = Records([{"text": "x", "is_replay": i % 2, "loudness": None if i == 1 else i / 4} for i in range(4)])
    own = [NumberField("is_replay", absent=0), NumberField("loudness", absent=0.0)]
    (batch,) = Loader(source, own, batch_size=4, shuffle=False)
    assert torch.equal(batch["is_replay"], torch.tensor([0, 1, 0, 1]))
    assert torch.equal(batch["loudness"], torch.tensor([0.0, 0.0, 0.5, 0.75]))
    assert set(batches.per_sample(batch)) == {"index", "group", "is_replay", "loudness"}
    bad = Loader(Records([{"label": "cat"}, *[{"label": 1}] * 11]), batch_size=4)
    assert all(batch["label"].tolist() == [1] * 4 for batch in bad)
    assert str(next(iter(bad.skipped))) == "records, record 0: its label is 'cat', not a whole number"


class Silent(Waveform):
    """A field that makes a key it does not declare."""

    def collate(self, parts, chance):
        return {"silence": torch.zeros(len(parts))}


def test_fields_that_do_not_fit_are_explained():
    with pytest.raises(UserError, match="records has no 'sound'; its columns are: text"):
        Loader(Records([{"text": "x"}]), [Waveform(8)], batch_size=1)
    with pytest.raises(UserError, match="two fields make the batch's 'waveform'"):
        Loader(Records(records()), [Waveform(8), Waveform(4)], batch_size=1)
    with pytest.raises(UserError, match="Silent made 'silence', which its 'keys' do not declare"):
        next(iter(Loader(Records(records()), [Silent(8)], batch_size=1)))
    with pytest.raises(UserError, match=r"batch key 'views' is declared as BatchKey\(axis=1.*already"):
        batches.declare("views", BatchKey())


def test_what_nobody_declared_lies_along_the_first_dimension():
    batch = {
        "depth": torch.arange(8).view(4, 2),
        "noise": torch.zeros(4),
        "scale": torch.tensor(2.0),
        "names": [*"abcd"],
    }
    assert batches.size(batch) == 4
    assert set(batches.per_sample(batch)) == {"noise"}
    assert set(batches.per_sample(batch, ["depth", "absent"])) == {"depth"}
    piece = batches.rows(batch, 1, 3, 4)
    assert piece["depth"].tolist() == [[2, 3], [4, 5]]
    assert (piece["scale"].item(), piece["names"]) == (2.0, ["b", "c"])


def test_what_does_not_divide_is_named():
    with pytest.raises(UserError, match=r"batch key 'queue' of shape \[7, 2\] cannot be cut.*each of 4 samples"):
        batches.rows({"index": torch.arange(4), "queue": torch.zeros(7, 2)}, 0, 2, 4)
    with pytest.raises(UserError, match=r"'text\.input_ids'"):
        batches.rows({"text": {"input_ids": torch.zeros(7, 2)}}, 0, 2, 4)
    with pytest.raises(UserError, match="negative_text does not say how many samples"):
        batches.size({"negative_text": {"input_ids": torch.zeros(8, 2)}})
    with pytest.raises(UserError, match="a batch of nothing"):
        batches.size({})


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    section = page.split("## A field of your own")[1]
    exec(compile(section.split("```python\n")[1].split("```")[0], "data.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "torch.Size([4, 16000])\n"
