"""The reproduction of ProAPO at a tiny size: every claim finds its figures, and what is planted and held out is so."""

import pytest
import torch

from nearfar.prompting import GroupSearch, SearchSize
from nearfar.reproductions.image_text import proapo_reproduction as proapo

CACHES = (proapo.concepts, proapo.embedded, proapo.model, proapo.bank)


class Letters:
    """A model in a few lines: texts by how often they hold each letter, pictures by their mean colours."""

    embed_dim, image_size, temperature = 26, 8, 0.1

    def preprocess(self, images):
        return torch.stack([torch.tensor(list(i.convert("RGB").resize((8, 8)).getdata())).flatten() for i in images])

    def encode_image(self, pixels, normalize=False):
        return pixels.float()[:, :26] / 255 + 0.1

    def tokenize(self, texts):
        return torch.tensor([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


@pytest.fixture
def small(monkeypatch):
    for cached in CACHES:
        cached.cache_clear()
    monkeypatch.setitem(proapo.CONFIG, "data", {**proapo.CONFIG["data"], "classes": 6, "keywords": 4})
    monkeypatch.setattr("nearfar.load", lambda name: Letters(), raising=False)
    size = SearchSize(1, adds=1, removes=1, replaces=1, mutations=1, crossovers=1)
    from nearfar.prompting import ProAPO

    monkeypatch.setattr(
        "nearfar.prompting.ProAPO",
        lambda *a, **k: ProAPO(*a, templates=size, descriptions=GroupSearch(1, 1, 2, size), **k),
    )
    yield
    for cached in CACHES:
        cached.cache_clear()


def test_a_seed_measures_what_the_claims_compare(small):
    arms = proapo.run(0)
    for claim in proapo.reproduction.claims:
        for arm in (claim.method, claim.baseline):
            assert 0 <= float(arms[arm][claim.metric]) <= 1
    assert len(arms[proapo.PLAIN]["top1"].values) == 6 * 4


def test_every_picture_is_drawn_or_tested(small):
    for seed in (0, 1):
        shown, label, (test, of_test) = proapo.pictures(seed)
        assert label.tolist() == list(range(6))
        assert (len(shown), len(test)) == (6, 24)
        assert of_test.bincount().tolist() == [4] * 6
        rows = torch.cat([shown, test]).sort(0).values
        torch.testing.assert_close(rows, proapo.embedded().flatten(0, 1).sort(0).values)
    assert not torch.equal(proapo.pictures(0)[0], proapo.pictures(1)[0])


def test_what_is_planted_is_of_other_classes(small):
    own = {concept["name"]: set(concept["keywords"]) for concept in proapo.concepts()}
    library, planted = proapo.described(3)
    for name, texts in library.descriptions.items():
        wrong = planted[name]
        assert wrong
        assert set(texts) == own[name] | wrong
        assert not wrong & own[name]
    assert proapo.described(3) == (library, planted)
    assert proapo.described(4)[1] != planted


def test_shares_count_what_sentences_end_in(small):
    from nearfar.prompting import ClassTexts, PromptLibrary

    library = PromptLibrary(("a", "b"), descriptions={"a": ("x", "y"), "b": ("z",)}, join=", ")
    texts = ClassTexts.from_sentences({"a": ["an a, x", "the a, x", "an a"], "b": ["b"]})
    assert proapo.kept_share(texts, library, {"a": {"y"}, "b": {"z"}}) == (1.0, 0.0)
    assert proapo.kept_share(texts, library, {"a": {"x"}, "b": set()}) == (0.0, 1.0)


def test_classes_are_none_that_the_model_learned_from():
    from nearfar.data import world

    trained = set(world.emoji("train", styles=["noto"]).column("group"))
    assert proapo.CONFIG["data"]["split"] == "test"
    assert not trained & {concept["group"] for concept in proapo.concepts()}
    assert len(proapo.concepts()) == 60
