"""Whitening as a fitted transform: the right matrix, one row alone, fewer rows than dimensions, in a model."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import nearfar
from nearfar.data import train_tokenizer
from nearfar.errors import UserError
from nearfar.models.language.text_model import text_encoder
from nearfar.models.language.whitening_transform import WhiteningTransform, whitened_encoder

TEXTS = [f"a {colour} {thing} in the {place}" for colour in ("red", "blue") for thing in ("car", "cat", "house")
         for place in ("rain", "yard", "snow", "park")]  # fmt: skip


def rows(n, d, seed=0):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((n, d)) @ generator.standard_normal((d, d)) + np.arange(d)


def test_the_fitted_rows_are_white():
    white = WhiteningTransform().fit_transform(rows(200, 8))
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(white.T @ white / 200, np.eye(8), atol=1e-9)


def test_one_row_is_what_it_is_among_others():
    fitted = WhiteningTransform().fit(rows(200, 8))
    others = rows(5, 8, seed=1)
    np.testing.assert_allclose(fitted.transform(others[2:3]), fitted.transform(others)[2:3], atol=1e-12)


def test_fewer_rows_than_dimensions():
    """Ten rows vary in nine directions."""
    white = WhiteningTransform().fit_transform(rows(10, 32))
    assert white.shape == (10, 9)
    assert np.isfinite(white).all()
    with pytest.raises(UserError, match="components=20: these 10 rows vary in 9 directions; keep 1 to 9"):
        WhiteningTransform(20).fit(rows(10, 32))


def test_kept_dimensions_are_those_of_largest_variance():
    x = rows(300, 6)
    fitted = WhiteningTransform(2).fit(x)
    largest = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    np.testing.assert_allclose(fitted.variances_, largest[:2])
    along = (x - x.mean(0)) @ (fitted.map_ * np.sqrt(fitted.variances_))
    np.testing.assert_allclose(along.var(0), largest[:2])


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones((1, 4)), "1 row says nothing"),
        (np.ones((5, 4)), "vary in 0 directions"),
        (np.ones(4), r"must be \[N, D\]"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), "row 1 is not finite"),
    ],
)
def test_what_cannot_be_fitted_is_named(x, words):
    with pytest.raises(UserError, match=words):
        WhiteningTransform().fit(x)


def test_it_is_fitted_first_and_of_one_width():
    with pytest.raises(UserError, match="fit the whitening first"):
        WhiteningTransform().transform(np.ones((2, 3)))
    with pytest.raises(UserError, match="rows are 3 wide, and the fitted ones 8"):
        WhiteningTransform().fit(rows(20, 8)).transform(np.ones((2, 3)))


def test_scikit_learn_takes_it():
    pipeline = make_pipeline(StandardScaler(), WhiteningTransform(3)).fit(rows(50, 8))
    assert pipeline.transform(rows(2, 8)).shape == (2, 3)
    assert clone(WhiteningTransform(3)).components == 3


def test_a_model_carries_it(tmp_path):
    """Saved, loaded and exported with the rest; the model that was given stays as it is."""
    torch.manual_seed(0)
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = text_encoder(bert | {"intermediate_size": 32}, tokenizer=train_tokenizer(TEXTS, 300)).eval()
    white = whitened_encoder(model, TEXTS, components=6)
    with torch.no_grad():
        z = white.encode_text(white.tokenize(TEXTS)).double()
        expected = WhiteningTransform(6).fit_transform(model.encode_text(model.tokenize(TEXTS)))
    assert (white.embed_dim, model.embed_dim, len(model.layers)) == (6, 16, 0)
    np.testing.assert_allclose(np.abs(z.numpy()), np.abs(expected), atol=2e-3)
    np.testing.assert_allclose((z.T @ z / len(z)).numpy(), np.eye(6), atol=1e-3)
    again = nearfar.load(white.save_pretrained(tmp_path / "white"))
    np.testing.assert_allclose(again.encode(TEXTS), white.encode(TEXTS), atol=1e-6)
