"""The loader: deterministic whatever the processes and workers, exact to resume, robust against bad records."""

import io

import pytest
import torch
from PIL import Image

from nearfar.data import Loader, Records, train_tokenizer
from nearfar.data.pictures.views import ViewPreset, Views
from nearfar.data.sources.source import Stream
from nearfar.errors import UserError

TOKENIZER = train_tokenizer(["a cat", "a dog", "number 0 1 2 3 4 5 6 7 8 9"], 300)


def png(i):
    buffer = io.BytesIO()
    Image.new("RGB", (10 + i % 3, 10), (i % 256, 2 * i % 256, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def records(n, broken=(), mute=()):
    return [
        {
            "image": b"junk" if i in broken else png(i),
            "text": [] if i in mute else [f"number {i}", f"the {i}"],
            "label": i % 3,
            "group": i // 2,
            "negative_text": [f"number {i + 1}", f"number {i + 2}"],
        }
        for i in range(n)
    ]


def loader(source, **options):
    defaults = {"batch_size": 4, "image_size": 8, "tokenizer": TOKENIZER, "views": "moco", "seed": 5}
    return Loader(source, **(defaults | options))


class Parts(Stream):
    """A stream of parts of unequal length."""

    name, columns = "parts", ("image", "text")

    def __init__(self, lengths, **bad):
        everything = iter(records(sum(lengths), **bad))
        self.contents = [[next(everything) for _ in range(length)] for length in lengths]
        self.parts = len(lengths)

    def read(self, part, skip=0):
        yield from self.contents[part][skip:]


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b)


def test_a_batch_has_the_contract_s_keys():
    batch = next(iter(loader(Records(records(12)), n_views=2)))
    shapes = {key: tuple(value.shape) for key, value in batch.items() if not isinstance(value, dict)}
    assert shapes == {
        "index": (4,),
        "group": (4,),
        "label": (4,),
        "has_negative": (4,),
        "image": (4, 3, 8, 8),
        "views": (2, 4, 3, 8, 8),
        "geometry": (2, 4, 3, 3),
        "picture_size": (4, 2),
    }
    assert batch["text"]["input_ids"].shape[0] == 4
    assert batch["negative_text"]["input_ids"].shape[0] == 8
    assert torch.equal(batch["image"], batch["views"][0])
    for row, index in enumerate(batch["index"].tolist()):
        caption = TOKENIZER.decode(batch["text"]["input_ids"][row], skip_special_tokens=True).strip()
        assert caption in (f"number {index}", f"the {index}")
        assert batch["group"][row] == index // 2
        wrong = {
            TOKENIZER.decode(ids, skip_special_tokens=True).strip()
            for ids in batch["negative_text"]["input_ids"][2 * row : 2 * row + 2]
        }
        assert wrong == {f"number {index + 1}", f"number {index + 2}"}


@pytest.mark.parametrize("workers", [0, 2])
def test_who_takes_as_many_batches_as_there_are_gets_the_next_epoch_then(workers):
    """Lightning counts batches and does not ask for one more: without its end an epoch would come again and again."""
    source = Records(records(12), name="twelve")
    whole = loader(source)
    epochs = [[batch["index"].tolist() for batch in whole] for _ in range(2)]
    counted = loader(source, workers=workers)
    taken = [[next(batches)["index"].tolist() for _ in range(3)] for batches in (iter(counted), iter(counted))]
    assert taken == epochs
    part = loader(source)
    half = [next(iter(part))["index"].tolist() for _ in range(2)]
    assert half == epochs[0][:1] * 2, "a pass that was left in the middle begins anew"
    counted.set_epoch(1)
    assert [batch["index"].tolist() for batch in counted] == epochs[1]


def test_an_epoch_has_every_record_once_and_another_order_each_time():
    batches = loader(Records(records(12)))
    first, second = ([i for batch in batches for i in batch["index"].tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    batches.set_epoch(0)
    assert [i for batch in batches for i in batch["index"].tolist()] == first
    assert len(batches) == 3


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    list(loader(Records(records(8))))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("source", [Records(records(30, broken=[7])), Parts([9, 2, 12, 7], broken=[7])])
def test_processes_and_workers_share_one_global_batch(source):
    options = {"max_skipped": 0.2, "block": 10} if isinstance(source, Stream) else {"max_skipped": 0.2}
    whole = list(loader(source, batch_size=8, **options))
    for world in (2, 4):
        ranks = [
            list(loader(source, batch_size=8 // world, rank=r, world_size=world, workers=r % 3, **options))
            for r in range(world)
        ]
        for step, batch in enumerate(whole):
            for key in ("index", "image", "geometry"):
                joined = torch.cat([rank[step][key] for rank in ranks], dim=1 if key == "geometry" else 0)
                assert torch.allclose(joined, batch[key], atol=1e-6), key
            captions = [
                c
                for rank in ranks
                for c in TOKENIZER.batch_decode(rank[step]["text"]["input_ids"], skip_special_tokens=True)
            ]
            assert captions == TOKENIZER.batch_decode(batch["text"]["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("source", [Records(records(30, broken=[3])), Parts([9, 2, 12, 7], broken=[3])])
def test_going_on_inside_an_epoch_is_exact(source, workers):
    def fresh():
        return loader(source, workers=workers, block=7, max_skipped=0.3, n_views=2)

    straight = fresh()
    expected = [*straight, *straight, *straight]
    an_epoch = len(expected) // 3
    near_the_end = (1, an_epoch - 1, an_epoch, an_epoch + 1, 2 * an_epoch - 1)  # workers start anew each time
    for stop in near_the_end if workers else range(1, 2 * an_epoch):
        first, count = fresh(), 0
        while count < stop:
            for _ in first:
                count += 1
                if count == stop:
                    state = first.state_dict()
                    break
        second = fresh()
        second.load_state_dict(state)
        second.set_epoch(state["epoch"])
        rest = list(second)
        assert len(rest) == -stop % an_epoch
        rest += list(second)
        assert len(rest) == -stop % an_epoch + an_epoch
        assert all(same(a, b) for a, b in zip(rest, expected[stop : stop + len(rest)], strict=True))


def test_a_state_fits_other_processes_but_no_other_batch():
    state = loader(Records(records(32)), batch_size=8)
    next(iter(state))
    half = loader(Records(records(32)), batch_size=4, rank=1, world_size=2)
    half.load_state_dict(state.state_dict())
    assert len(list(half)) == 3
    with pytest.raises(UserError, match="global_batch was 8 and now is 4"):
        loader(Records(records(32)), batch_size=4).load_state_dict(state.state_dict())
    with pytest.raises(UserError, match="seed"):
        loader(Records(records(32)), batch_size=8, seed=6).load_state_dict(state.state_dict())


def test_the_last_batch():
    source = Records(records(10))
    assert [len(b["index"]) for b in loader(source)] == [4, 4]
    assert [len(b["index"]) for b in loader(source, drop_last=False)] == [4, 4, 2]
    assert [len(b["index"]) for b in loader(source, drop_last=False, batch_size=2, world_size=2)] == [2, 2, 1]
    assert [len(b["index"]) for b in loader(Parts([7, 3]), drop_last=False)] == [4, 4, 2]
    assert len(loader(source, drop_last=False)) == 3
    assert [i for b in loader(source, shuffle=False, drop_last=False) for i in b["index"].tolist()] == list(range(10))
    assert list(loader(Records(records(3)))) == []
    with pytest.raises(TypeError, match="the length of a stream is not known"):
        len(loader(Parts([7, 3])))


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_records_are_replaced_counted_and_listed(workers):
    source = Records(records(100, broken=[11, 50], mute=[70]), name="pets")
    batches = loader(source, workers=workers)
    for _ in range(2):
        order = [i for batch in batches for i in batch["index"].tolist()]
        assert len(order) == 100
        assert not {11, 50, 70} & set(order)
    assert batches.skipped.count == 3
    assert {problem.where.split(" (")[0] for problem in batches.skipped} == {f"pets, record {i}" for i in (11, 50, 70)}
    assert "no caption" in str(batches.skipped)
    assert "not an image" in str(batches.skipped)


def test_in_order_bad_records_are_left_out():
    batches = loader(Records(records(30, broken=[0, 5])), shuffle=False, drop_last=False)
    assert [i for b in batches for i in b["index"].tolist()] == [i for i in range(30) if i not in (0, 5)]
    assert batches.skipped.count == 2


def test_too_many_bad_records_stop_it():
    with pytest.raises(UserError, match=r"records read could not be used, more than the 10% allowed(.|\n)*record 0"):
        list(loader(Records(records(40, broken=range(5))), shuffle=False))
    with pytest.raises(UserError, match="could not be used"):
        list(loader(Parts([40, 40], broken=range(0, 80, 4))))
    with pytest.raises(UserError, match="could not be used"):
        list(loader(Records(records(8, broken=range(8)))))
    assert list(loader(Records(records(40, broken=range(5))), max_skipped=0.2))
    with pytest.raises(UserError, match="0% allowed"):
        list(loader(Records(records(40, broken=[3])), max_skipped=0))


def test_resuming_near_the_end_does_not_judge_by_the_few_that_are_left():
    source = Records(records(100, broken=[98]))
    batches = loader(source, batch_size=1, shuffle=False)
    batches.load_state_dict(batches.state_dict() | {"place": {"step": 97}})
    assert len(list(batches)) == 2


def test_wrong_columns_are_explained():
    with pytest.raises(
        UserError, match="has no 'text'; its columns are: image, name: name the one that is it, text=COLUMN"
    ):
        loader(Records([{"image": b"", "name": "x"}]))
    with pytest.raises(UserError, match="negatives=2"):
        loader(Records([{"image": b"", "text": "x"}]), negatives=2)


def test_texts_alone_and_pictures_alone():
    texts = next(iter(loader(Records(records(8)), image_size=None)))
    assert "image" not in texts
    assert "text" in texts
    pictures = next(iter(loader(Records(records(8)), tokenizer=None)))
    assert "text" not in pictures
    assert "image" in pictures


def test_captions_change_from_epoch_to_epoch_or_stay_first():
    def chosen(**options):
        batches = loader(Records(records(64)), **options)
        epochs = []
        for _ in range(2):
            texts = {}
            for batch in batches:
                words = TOKENIZER.batch_decode(batch["text"]["input_ids"], skip_special_tokens=True)
                texts |= dict(zip(batch["index"].tolist(), words, strict=True))
            epochs.append(texts)
        return epochs

    first, second = chosen()
    assert 0.3 < sum(first[i] == second[i] for i in range(64)) / 64 < 0.7
    first, second = chosen(caption="first")
    assert first == second
    assert all("number" in text for text in first.values())
    first, second = chosen(caption=0.5)  # one caption or the other of two: the first in 3 of 4 draws
    assert 0.6 < sum("number" in text for each in (first, second) for text in each.values()) / 128 < 0.9
    assert first != second
    for wrong in ("last", 1.5):
        with pytest.raises(UserError, match="choose 'first', 'random', 'turn', or a share"):
            loader(Records(records(4)), caption=wrong)


def test_pictures_may_be_augmented_on_another_device():
    """The bytes travel, the chance does not: it is the CPU's, so that every device gives the same views."""
    source = Records(records(8))
    here, there = next(iter(loader(source))), next(iter(loader(source, device="cpu")))
    assert same(here, there)
    if torch.cuda.is_available():
        there = next(iter(loader(source, device="cuda")))
        assert there["image"].is_cuda
        assert torch.allclose(here["image"], there["image"].cpu(), atol=1e-4)


class Counting:
    """An image that counts how often it is read."""

    def __init__(self):
        self.reads = 0

    def read(self):
        self.reads += 1
        return png(1)


@pytest.mark.parametrize(("cache", "reads"), [(512 << 20, 1), (0, 3)])
def test_decoded_pictures_are_kept(cache, reads):
    images = [Counting() for _ in range(8)]
    batches = loader(Records([{"image": image, "text": "x"} for image in images]), cache=cache)
    for _ in range(3):
        list(batches)
    assert [image.reads for image in images] == [reads] * 8


def test_the_cache_keeps_to_its_budget():
    images = [Counting() for _ in range(8)]
    side = Views("moco", size=8).canvas
    batches = loader(Records([{"image": i, "text": "x"} for i in images]), cache=3 * 3 * side * side + 10)
    list(batches), list(batches)
    assert sorted(image.reads for image in images) == [1] * 3 + [2] * 5


def test_unequal_pictures_and_where_they_went():
    """Red is x: after squashing and cropping, a pixel's red must say where `geometry` puts it in the original, but for
    the rounding of the squashed picture's bytes; half a pixel would be a whole level."""
    width, height = 96, 48
    ramp = Image.new("RGB", (width, height))
    ramp.putdata([(2 * x, 2 * y, 0) for y in range(height) for x in range(width)])
    preset = ViewPreset(crop=(0.5, 1.0), flip=0.5, canvas=2.0)
    batches = Loader(
        Records([{"image": ramp}] * 8), batch_size=8, image_size=32, views=preset, mean=(0, 0, 0), std=(1 / 255,) * 3
    )
    batch = next(iter(batches))
    for b in range(8):
        for x, y in [(8, 8), (20, 12), (16, 24)]:
            place = torch.linalg.inv(batch["geometry"][0, b]) @ torch.tensor([float(x), float(y), 1.0])
            assert batch["image"][b, :2, y, x].tolist() == pytest.approx((2 * place[:2]).tolist(), abs=0.6)


def test_a_share_held_out_is_judged_with_the_rest_of_its_data():
    """One broken picture of forty may lie among four held out; as data of its own it is too many."""
    rows = [{"image": png(i), "text": f"thing {i}"} for i in range(40)]
    rows[7]["image"] = b"no picture"
    whole, options = Records(rows, name="rows"), {"image_size": 8, "tokenizer": train_tokenizer(["a"], 300)}
    made = Loader(whole.select([3, 7, 11, 15]), batch_size=2, shuffle=False, drop_last=False, **options)
    assert sum(len(batch["index"]) for batch in made) == 3
    assert made.skipped.problems[0].where == "rows, record 7 (image of 10 bytes)"
    with pytest.raises(UserError, match=r"of the [24] records read"):
        list(Loader(Records(rows[5:9], name="few"), batch_size=2, drop_last=False, **options))
