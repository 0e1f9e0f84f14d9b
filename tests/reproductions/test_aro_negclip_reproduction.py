"""The reproduction of ARO and NegCLIP: its parts on a few scenes, and, slowly, a whole seed in small."""

import pytest
import torch

from nearfar.data import train_tokenizer
from nearfar.reproductions import find
from nearfar.reproductions.image_text import aro_negclip_reproduction as aro_negclip
from nearfar.reproductions.setups.grid_encoder import GridEncoder, Reduction


@pytest.fixture
def small(monkeypatch):
    scenes = {**aro_negclip.CONFIG["scenes"], "train": 128, "val": 8, "test": 24, "retrieval": 12}
    monkeypatch.setitem(aro_negclip.CONFIG, "scenes", scenes)
    monkeypatch.setitem(aro_negclip.CONFIG, "grid", {**aro_negclip.CONFIG["grid"], "kept": 8})
    for phase in ("pretraining", "fine_tuning"):
        monkeypatch.setitem(aro_negclip.CONFIG, phase, {**aro_negclip.CONFIG[phase], "steps": 2, "batch_size": 16})
    aro_negclip.prepare.cache_clear()
    yield
    aro_negclip.prepare.cache_clear()


def pairs(split):
    return {frozenset(thing["name"] for thing in scene["objects"]) for scene in aro_negclip.raw(split, 0)}


def test_training_validation_and_test_share_no_pair_of_emojis(small):
    assert not pairs("train") & pairs("test")
    assert not pairs("train") & pairs("val")
    assert not pairs("val") & pairs("test")


def test_no_caption_turns_a_relation_round_and_no_false_one_is_of_a_caption_left_out(small):
    for scene in aro_negclip.raw("test", 0):
        said = aro_negclip.captions_of(scene)
        assert len(said) == 3
        assert not any(word in caption.split() for caption in said for word in ("right", "below", "under", "lower"))
        false = aro_negclip._falsified(scene)
        assert false["negative_of"] == [0, 1, 2]
        assert false["negative_kind"] == ["attribution", "relation", "attribution"]


def test_a_grid_encoder_sees_which_place_holds_what_and_no_padding():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a red cat left of a blue dog"] * 9, 330)
    encoder = GridEncoder(tokenizer, cells=4, channels=3, width=8, heads=2).eval()
    grid = torch.randn(1, 4, 3)
    encoded = encoder.encode_image(torch.cat([grid, grid[:, [1, 0, 2, 3]]]).flatten(1), normalize=True)
    assert not torch.allclose(encoded[0], encoded[1], atol=1e-3)
    torch.testing.assert_close(encoded.norm(dim=1), torch.ones(2))
    texts = ["a cat left of a dog", "a dog left of a cat", "a red cat left of a blue dog"]
    together = encoder.encode_text(encoder.tokenize(texts))
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    torch.testing.assert_close(together[:1], encoder.encode_text(encoder.tokenize(texts[:1])), rtol=1e-4, atol=1e-5)


def test_a_reduction_keeps_the_widest_directions():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(200, 4, 2, generator=generator) * torch.tensor([5.0, 3.0])
    grids = torch.cat([hidden, 0.01 * torch.randn(200, 4, 3, generator=generator)], dim=2) + 7
    reduced = Reduction(grids, kept=2)(grids).unflatten(1, (4, 2)).flatten(0, 1)
    torch.testing.assert_close(torch.cov(reduced.T), torch.eye(2), rtol=0, atol=1e-4)
    expected = (hidden - hidden.flatten(0, 1).mean(0)).flatten(0, 1)
    correlation = torch.corrcoef(torch.cat([reduced, expected], dim=1).T)[:2, 2:].abs()
    assert correlation.diagonal().min() > 0.99


def test_a_seed_gives_every_figure_that_a_claim_asks_for(small, monkeypatch):
    made = find("aro-negclip")
    setting = made.grid.settings()[0]
    with monkeypatch.context() as patch:
        patch.setitem(aro_negclip.CONFIG["scenes"], "train", 32)
        assert 0 <= aro_negclip.validate("+ hard captions", setting, 1000) <= 1
    arms = aro_negclip.run(0, dict.fromkeys(aro_negclip.ARMS, setting))
    for claim in made.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= arms[arm][claim.metric] <= 1
    assert arms["text only"]["order"] > 2 * 0.2, "word order alone gives most of it away"
    assert abs(arms["text only"]["relation"] - 0.5) < 0.3


def test_the_grid_s_seeds_are_not_judged():
    made = find("aro-negclip")
    assert not set(made.grid.seeds) & set(made.seeds)
    assert set(made.grid.arms) == set(aro_negclip.ARMS)
