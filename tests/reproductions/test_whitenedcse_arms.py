"""The arms of WhitenedCSE's reproduction differ in what their names say, on passes that are made up here."""

import numpy as np
import pytest
import torch

from nearfar.reproductions.setups import sentence_passes
from nearfar.reproductions.text import whitenedcse_reproduction as reproduction


@pytest.fixture
def made_up(monkeypatch):
    def drawn(*shape, seed):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    whole = drawn(40, 384, seed=0)
    monkeypatch.setattr(sentence_passes, "trained_on", lambda: whole + 0.3 * drawn(4, 40, 384, seed=1))
    monkeypatch.setattr(
        sentence_passes, "pairs", lambda split: (whole[:9], whole[:9] + drawn(9, 384, seed=2), torch.arange(9))
    )
    small = {"trained_on": 32, "training": reproduction.CONFIG["training"] | {"steps": 2, "batch_size": 16}}
    monkeypatch.setattr(reproduction, "CONFIG", reproduction.CONFIG | small)


def test_every_arm_trains_and_is_measured(made_up):
    arms = reproduction.run(0, {arm: {"lr": 1e-2} for arm in reproduction.ARMS})
    claims = reproduction.reproduction.claims
    assert {claim.method for claim in claims} | {claim.baseline for claim in claims} == set(arms)
    figures = {arm: values["uniformity"] for arm, values in arms.items()}
    assert np.isfinite(list(figures.values())).all()
    assert len({round(figure, 7) for figure in figures.values()}) == len(arms), "no two arms are the same"
    assert 0 < reproduction.validated("WhitenedCSE", {"lr": 1e-2}, 0) <= 1


def test_the_copies_of_a_sentence_are_its_passes(made_up):
    """A method repeats its texts, and the k-th copy must be the k-th pass."""
    batch = next(iter(sentence_passes.PassBatches(torch.arange(32), batch_size=16, copies=3)))
    mapped = sentence_passes.Map()
    views = mapped.encode_text(torch.cat([batch["text"]] * 3)).chunk(3)
    for place, view in enumerate(views):
        torch.testing.assert_close(view, mapped.encode_text(batch["text"][..., place]))
