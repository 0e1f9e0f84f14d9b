"""Hard images: what is mined, and batches of drawn records and their neighbours, whatever the processes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nearfar.data import Loader, PairedOrder, Records, mine_hard_images, train_tokenizer
from nearfar.data.sources.source import Stream
from nearfar.errors import UserError

TOKENIZER = train_tokenizer(["number 0 1 2 3 4 5 6 7 8 9"], 300)
K = 3


@given(st.integers(2, 40), st.integers(1, 5), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_mining_against_the_full_matrix(n, k, tile, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    group = torch.randint(0, n, (n,), generator=generator)
    group[0], group[-1] = 0, n  # at least two groups
    mined = mine_hard_images(x, k=k, group=group, tile=tile)
    assert mined.shape == (n, min(k, n - 1))
    unit = torch.nn.functional.normalize(x, dim=1)
    cosine = unit @ unit.T
    cosine[group[:, None] == group] = -2
    assert (group[mined] != group[:, None]).all()
    for row, places in enumerate(mined.tolist()):
        candidates = int((cosine[row] > -2).sum())
        best = cosine[row].sort(descending=True).values[: min(len(places), candidates)]
        torch.testing.assert_close(cosine[row][places[: len(best)]], best)
        assert places == [places[i % candidates] for i in range(len(places))]


def test_a_picture_is_never_its_own_neighbour():
    assert all(i not in row for i, row in enumerate(mine_hard_images(torch.ones(5, 2), k=3).tolist()))


def test_a_picture_without_candidates_is_named():
    with pytest.raises(UserError, match="picture 0 has no hard image"):
        mine_hard_images(torch.eye(3), group=torch.tensor([7, 7, 7]))


def source(n, broken=()):
    images = [b"junk" if i in broken else Image.new("RGB", (8, 8), (i, 9, 9)) for i in range(n)]
    return Records([{"image": image, "text": f"number {i}"} for i, image in enumerate(images)])


def neighbours(n):
    return (torch.arange(n)[:, None] + torch.arange(1, K + 1)) % n


def loader(data, **options):
    defaults = {
        "batch_size": 8,
        "image_size": 8,
        "tokenizer": TOKENIZER,
        "views": "moco",
        "seed": 5,
        "max_skipped": 0.5,
    }
    return Loader(data, order=PairedOrder(neighbours(len(data))), **(defaults | options))


def epochs(batches, count):
    return [[batch["index"].tolist() for batch in batches] for _ in range(count)]


def test_half_is_drawn_and_half_are_its_neighbours():
    batches = loader(source(24))
    assert len(batches) == 6
    pairs = set()
    for epoch in epochs(batches, 6):
        drawn = [i for rows in epoch for i in rows[:4]]
        assert sorted(drawn) == list(range(24))
        for rows in epoch:
            offsets = [(j - i) % 24 for i, j in zip(rows[:4], rows[4:], strict=True)]
            assert set(offsets) <= {1, 2, 3}
            pairs |= set(zip(rows[:4], offsets, strict=True))
    assert len(pairs) > 24  # another neighbour in another epoch


@pytest.mark.parametrize("n", [22, 21, 5])
def test_a_partial_last_batch_pairs_each_with_its_own_neighbour(n):
    """Its drawn half is shorter: neighbours begin where it ends, and are of that half and of no other record."""
    batches = loader(source(n), drop_last=False)
    for rows in epochs(batches, 3):
        sizes = [len(each) for each in rows]
        assert sizes == [8] * (n // 4) + [2 * (n % 4)] * bool(n % 4)
        drawn = [i for each in rows for i in each[: len(each) // 2]]
        assert sorted(drawn) == list(range(n))
        for each in rows:
            half = len(each) // 2
            assert all((j - i) % n in {1, 2, 3} for i, j in zip(each[:half], each[half:], strict=True))


def test_texts_and_pictures_belong_to_their_rows():
    batch = next(iter(loader(source(24), views="none", mean=(0, 0, 0), std=(1, 1, 1))))
    said = TOKENIZER.batch_decode(batch["text"]["input_ids"], skip_special_tokens=True)
    for row, index in enumerate(batch["index"].tolist()):
        assert said[row].strip() == f"number {index}"
        assert round(batch["image"][row, 0, 0, 0].item() * 255) == index


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_one_global_batch(world, drop_last):
    data = source(22, broken=[7])
    whole = list(loader(data, drop_last=drop_last))
    assert len(whole) == (5 if drop_last else 6)
    ranks = [
        list(loader(data, batch_size=8 // world, rank=r, world_size=world, drop_last=drop_last, workers=r % 2))
        for r in range(world)
    ]
    for step, batch in enumerate(whole):
        for key in ("index", "image"):
            assert torch.allclose(torch.cat([rank[step][key] for rank in ranks]), batch[key], atol=1e-6)


def test_it_goes_on_where_it_stopped():
    data = source(24)
    expected = epochs(loader(data), 2)
    first = loader(data)
    iterator = iter(first)
    done = [next(iterator)["index"].tolist() for _ in range(2)]
    again = loader(data)
    again.load_state_dict(first.state_dict())
    assert [done + epochs(again, 1)[0], epochs(again, 1)[0]] == expected


def test_a_broken_neighbour_gives_way_to_the_next():
    data = source(24, broken=[7])
    for rows in epochs(loader(data), 1)[0]:
        assert 7 not in rows
        for i, j in zip(rows[:4], rows[4:], strict=True):
            if i in (4, 5, 6):
                assert (j - i) % 24 in {1, 2, 3}


@pytest.mark.parametrize(
    ("table", "batch", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.long), 8, r"expected \[24, K\]"),
        (torch.full((24, 1), 24), 8, "outside"),
        (torch.zeros(24, 1, dtype=torch.long), 7, "7 samples do not divide"),
    ],
)
def test_what_does_not_fit_is_said(table, batch, message):
    with pytest.raises(UserError, match=message):
        Loader(source(24), batch_size=batch, order=PairedOrder(table))


def test_a_stream_has_no_neighbours():
    class Endless(Stream):
        def read(self, part, skip=0):
            yield {}

    with pytest.raises(UserError, match="is a stream"):
        Loader(Endless(), batch_size=2, order=PairedOrder(neighbours(4)))
