"""Arms of COCONUT's re-run start alike, rehearse alike, and differ by its losses alone."""

import shutil

import pytest
import torch

from nearfar.reproductions.setups import command_tasks
from nearfar.reproductions.speech import coconut_reproduction as coconut

pytestmark = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite: apt install flite")
pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(command_tasks.DATA, "each", {"train": 2, "val": 1, "test": 1})
    monkeypatch.setitem(coconut.CONFIG, "steps", {"first": 1, "later": 1, "all at once": 1})
    command_tasks.sounds.cache_clear()
    yield
    command_tasks.sounds.cache_clear()


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_arms_differ_by_their_losses_alone(small):
    first = {}
    models = {arm: coconut._tasks(arm, 3, first, scale=1.0) for arm in coconut.ARMS}
    start = weights(models["ER"][0])
    for arm in ("fine-tuning", "ER + NTPT", "ER + NSPT"):
        assert torch.equal(weights(models[arm][0]), start), arm
    assert torch.equal(weights(models["ER + MM"][0]), weights(models["COCONUT"][0]))
    last = [weights(each[-1]) for each in models.values()]
    assert all(not torch.equal(one, other) for place, one in enumerate(last) for other in last[:place])
    for arm in ("ER + NSPT", "COCONUT"):
        without = coconut._tasks(arm, 3, {}, scale=0.0)
        assert torch.equal(weights(without[-1]), weights(models["ER"][-1])), "with weights 0 it is ER"
    for arm in coconut.FURTHER:
        own = weights(coconut._tasks(arm, 3, first, scale=1.0)[-1])
        assert all(not torch.equal(own, each) for each in last), arm
    figures = coconut._figures(models["ER"], 3, "val")
    assert figures.keys() == {"average accuracy", "last accuracy", "forgetting", "WER"}


def test_tasks_share_no_intent_and_no_voice_is_tested_that_was_heard():
    tasks = coconut._order(3)
    assert sorted(each for task in tasks for each in task) == list(range(coconut._classes()))
    assert coconut._order(3) != coconut._order(4)
    assert not set(coconut.reproduction.seeds) & set(coconut.reproduction.grid.seeds)
    voices = command_tasks.DATA["voices"]
    assert not set(voices["train"]) & {*voices["val"], *voices["test"]}
    from nearfar.data.sound.spoken_commands import VOICES

    assert {name: list(own) for name, own in VOICES.items()} == voices
