"""Which frames are taken: numbers worked out by hand, for any length of video."""

import numpy as np
import pytest

from nearfar.data import FrameChoice
from nearfar.errors import UserError


def edges(n):
    return np.arange(n + 1) / 25


@pytest.mark.parametrize(
    ("n", "frames", "right"),
    [
        (32, 8, [2, 6, 10, 14, 18, 22, 26, 30]),  # X-CLIP's own
        (30, 8, [1, 5, 9, 13, 16, 20, 24, 28]),
        (5, 8, [0, 0, 1, 2, 2, 3, 4, 4]),
        (4, 8, [0, 0, 1, 1, 2, 2, 3, 3]),  # a truncated linspace would give 0, 0, 0, 1, 1, 2, 2, 3
        (1, 4, [0, 0, 0, 0]),
        (9, 1, [4]),
        (8, 8, list(range(8))),
    ],
)
def test_the_middles_of_equal_parts(n, frames, right):
    assert FrameChoice(frames).numbers(edges(n)).tolist() == right
    assert FrameChoice(frames, spacing="time").numbers(edges(n)).tolist() == right  # frames of equal length


@pytest.mark.parametrize(
    ("choice", "n", "right"),
    [
        (FrameChoice(8, "dense", step=2, short="loop"), 3, [0, 2, 1, 0, 2, 1, 0, 2]),
        (FrameChoice(8, "dense", step=2, short="hold"), 3, [0, 2, 2, 2, 2, 2, 2, 2]),
        (FrameChoice(4, "dense", step=2), 11, [2, 4, 6, 8]),  # 7 frames in the middle of 11
        (FrameChoice(4, "dense"), 4, [0, 1, 2, 3]),
        (FrameChoice(3, "dense", short="loop"), 1, [0, 0, 0]),
    ],
)
def test_frames_in_a_row(choice, n, right):
    assert choice.numbers(edges(n)).tolist() == right


def test_parts_of_equal_time_hold_a_frame_that_lasts():
    """Frames begin at 0, 40, 80, 400, 440 and 900 ms, and the last ends at 940: the middles of four parts are at 117.5,
    352.5, 587.5 and 822.5 ms."""
    times = np.array([0, 40, 80, 400, 440, 900, 940]) / 1000
    assert FrameChoice(4, spacing="time").numbers(times).tolist() == [2, 2, 4, 4]
    assert FrameChoice(4).numbers(times).tolist() == [0, 2, 3, 5]
    assert FrameChoice(4, spacing="time").numbers(times + 7).tolist() == [2, 2, 4, 4]


def test_views_are_spread_evenly():
    choice = FrameChoice(2)
    assert [choice.numbers(edges(16), view=view, views=4).tolist() for view in range(4)] == [
        [1, 9],
        [3, 11],
        [5, 13],
        [7, 15],
    ]
    dense = FrameChoice(4, "dense")
    assert [dense.numbers(edges(12), view=view, views=2)[0] for view in range(2)] == [2, 6]
    assert np.array_equal(choice.numbers(edges(16), view=0, views=1), choice.numbers(edges(16)))


@pytest.mark.parametrize("spacing", ["frame", "time"])
@pytest.mark.parametrize("n", [1, 3, 8, 50])
def test_in_training_one_frame_of_each_part_is_drawn(n, spacing):
    choice, chance = FrameChoice(8, spacing=spacing), np.random.default_rng(0)
    drawn = np.stack([choice.numbers(edges(n), chance) for _ in range(300)])
    assert drawn.shape == (300, 8)
    starts = np.arange(8) * n / 8
    assert (drawn >= np.floor(starts)).all()
    assert (drawn <= np.minimum(np.ceil(starts + n / 8) - 1, n - 1).clip(np.floor(starts))).all()
    assert {*drawn.flatten().tolist()} == {*range(n)}  # none is out of reach
    again = np.random.default_rng(0)
    assert np.array_equal(drawn[0], choice.numbers(edges(n), again))


def test_in_training_a_row_begins_anywhere():
    starts = {int(FrameChoice(4, "dense").numbers(edges(9), np.random.default_rng(s))[0]) for s in range(100)}
    assert starts == {*range(6)}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"step": 0}, "step is 0"),
        ({"sampling": "random"}, "sampling='random': choose one of uniform, dense"),
        ({"short": "stop"}, "choose one of hold, loop"),
        ({"sampling": "dense", "spacing": "time"}, "'dense' counts frames"),
    ],
)
def test_what_is_refused(settings, says):
    with pytest.raises(UserError, match=says):
        FrameChoice(**settings)
