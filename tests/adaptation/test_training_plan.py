"""What is trained, by data, device and time: the rule, and the sentence that says why."""

import pytest

import nearfar
from nearfar.adaptation.opened_inputs import MIRROR_UP_TO, readable
from nearfar.adaptation.trainable import refusal, trainable
from nearfar.adaptation.training_plan import Cost, TrainSetting, planned, settings_for
from nearfar.errors import UserError
from nearfar.models.dual import lora

ABLE = {"lora": None, "towers": None}


def plan(train, device, pairs, *, each=0.01, possible=ABLE, left=None):
    settings, why = planned(train, device, Cost(pairs, each, chunk=32), possible, left)
    return [setting.kind for setting in settings], settings, why


def test_a_cpu_trains_nothing_and_says_how_long_it_would_take():
    kinds, _, why = plan("auto", "cpu", 300)
    assert kinds == []
    # 225 of 300 pairs, 29 passes, two rates; once more on all; a pass is a forward and twice that backward.
    seconds = (2 * 0.75 + 1) * 300 * 29 * 3 * 0.01
    assert Cost(300, 0.01, chunk=32).seconds(settings_for("lora", 300)) == pytest.approx(seconds)
    assert "a CPU, where it would take about 11 minutes (--train lora tries it)" in why


@pytest.mark.parametrize(
    ("pairs", "kinds"),
    [(20, set()), (300, {"lora"}), (9_999, {"lora"}), (10_000, {"lora", "towers"})],
)
def test_a_gpu_trains_by_the_number_of_pairs(pairs, kinds):
    chosen, _, why = plan("auto", "cuda", pairs)
    assert set(chosen) == kinds
    assert ("too few" in why) == (not kinds)
    assert ("--train towers tries them" in why) == (kinds == {"lora"})


@pytest.mark.parametrize(("train", "kinds"), [("none", []), ("lora", ["lora"] * 2), ("towers", ["towers"] * 2)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_named_is_done_on_every_device(train, kinds, device):
    chosen, _, why = plan(train, device, 300)
    assert chosen == kinds
    assert f"--train {train} says" in why


def test_where_adapters_fit_no_tower_a_gpu_says_so():
    kinds, _, why = plan("auto", "cuda", 300, possible={**ABLE, "lora": "adapters fit no layer of Lite"})
    assert kinds == []
    assert "adapters fit no layer of Lite" in why


def test_little_time_tries_fewer_settings_then_fewer_passes_then_nothing():
    whole = settings_for("lora", 300)
    cost = Cost(300, 0.01, chunk=32)
    for left, count, passes in ((cost.seconds(whole), 2, 29), (cost.seconds(whole) - 1, 1, 29)):
        _, settings, _ = plan("lora", "cpu", 300, left=left)
        assert (len(settings), settings[0].epochs) == (count, passes)
    _, settings, why = plan("lora", "cpu", 300, left=cost.seconds(whole[:1]) / 2)
    assert [(setting.lr, setting.epochs) for setting in settings] == [(whole[0].lr, 14.0)]
    assert cost.seconds(settings) <= cost.seconds(whole[:1]) / 2
    assert "as many passes as there is time for" in why
    _, settings, why = plan("lora", "cpu", 300, left=1.0)
    assert settings == []
    assert "one pass over the pairs would take about 16 seconds of --minutes" in why


def test_a_batch_that_goes_through_in_parts_costs_a_pass_more():
    setting = TrainSetting("lora", 1e-4, batch_size=64, epochs=1.0)
    whole, parts = (Cost(100, 1.0, chunk).seconds([setting]) for chunk in (64, 32))
    assert (whole, parts) == (525.0, 700.0)


def test_few_pairs_make_batches_that_fill():
    for pairs in (8, 20, 44, 300):
        for setting in settings_for("towers", pairs):
            assert setting.steps(int(pairs * 0.75)) >= 1


def test_time_goes_to_each_reading_of_a_record():
    """Once; a fifth held out twice more, and all for the index, without the tower; below 1,000 four fifths mirrored."""
    few, many = (readable(seconds, first=0.1, again=0.02, fitted=0.8) for seconds in (100.0, 1000.0))
    each = 0.1 + 0.02 * (2 * 0.2 + 1)
    assert few == int(100 / (each + 0.8 * 0.08))
    assert many == int(1000 / each)
    assert few * 0.8 <= MIRROR_UP_TO < many * 0.8


def test_the_copy_trains_and_the_model_stays_as_it_is(small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with_adapters, whole = trainable(small, "lora"), trainable(small, "towers")
    assert set(with_adapters.adapters) == {"image", "text"}
    for side in ("image", "text"):
        trained = [name for name, p in getattr(with_adapters, side).named_parameters() if p.requires_grad]
        assert trained
        assert all(".lora_" in name for name in trained)
        assert all(p.requires_grad for p in getattr(with_adapters, f"{side}_projection").parameters())
    assert all(p.requires_grad for p in whole.parameters())
    assert not small.adapters
    assert all(map(small.state_dict()[name].equal, [value]) for name, value in before.items())


def test_a_tower_that_adapters_do_not_fit_stays_frozen_beside_the_other():
    starter = trainable(nearfar.load("starter"), "lora")
    assert set(starter.adapters) == {"text"}
    assert not any(p.requires_grad for p in starter.image.parameters())
    assert any(p.requires_grad for p in starter.image_projection.parameters())


def test_adapters_that_fit_no_tower_are_refused_before_the_reading(small, monkeypatch):
    def none(tower, **settings):
        raise UserError("adapters fit no layer of Lite")

    monkeypatch.setattr(lora, "add", none)
    assert refusal(small, "lora") == "adapters fit no layer of Lite"
    assert refusal(small, "towers") is None
    with pytest.raises(UserError, match="train=lora: adapters fit no layer of Lite"):
        nearfar.adapt("world/emoji", small, train="lora")
