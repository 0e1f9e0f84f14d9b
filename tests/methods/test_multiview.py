"""Multi-view contrast as a method: each loss by its name, views and modalities, and what is refused."""

import pytest
import torch
from torch import nn

from nearfar.errors import UserError
from nearfar.losses.functional import mv_dhel, mv_info_nce, nt_xent, pairwise_views, poly_view
from nearfar.methods import MultiView


class Identity(nn.Module):
    def encode_image(self, pixels):
        return pixels


class TwoModalities(Identity):
    def encode_text(self, tokens):
        return tokens["states"]


CODE = {"same_view_negatives": True}


def two(a, b):
    return nt_xent(a, b, temperature=0.3)


def views(count=4, n=5, seed=0):
    return torch.randn(count, n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "options", "function"),
    [
        ("mv_dhel", {}, lambda x: mv_dhel(x, temperature=0.3)),
        ("mv_dhel", {"uniformity_weight": 0.25}, lambda x: mv_dhel(x, temperature=0.3, uniformity_weight=0.25)),
        ("mv_dhel", {"as_printed": True}, lambda x: mv_dhel(x, temperature=0.3, as_printed=True)),
        ("mv_info_nce", {}, lambda x: mv_info_nce(x, temperature=0.3)),
        ("mv_info_nce", {"same_view_negatives": True}, lambda x: mv_info_nce(x, temperature=0.3, **CODE)),
        ("poly_view", {"average": "arithmetic"}, lambda x: poly_view(x, temperature=0.3, average="arithmetic")),
        ("pairs", {}, lambda x: pairwise_views(x, loss=two)),
        ("pairs", {"against": "mean"}, lambda x: pairwise_views(x, loss=two, against="mean")),
    ],
)
def test_each_loss_by_its_name(loss, options, function):
    x = views()
    method = MultiView(Identity(), loss=loss, temperature=0.3, options=options)
    torch.testing.assert_close(method({"views": x})["loss"], function(x), rtol=1e-6, atol=1e-6)
    assert not list(method.parameters()) or not any(p.requires_grad for p in method.parameters())


def test_pairs_are_all_pairs_and_not_each_view_with_the_one_half_the_views_on():
    """With more than two views a stack of twice N rows, cut in two, contrasts view l with view l + V / 2 alone."""
    x = views()
    every = [nt_xent(x[a], x[b], temperature=0.5) for a in range(4) for b in range(a)]
    loss = MultiView(Identity(), loss="pairs")({"views": x})["loss"]
    torch.testing.assert_close(loss, torch.stack(every).mean(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pictures", [1, 3])
def test_the_text_of_a_model_of_both_is_one_view_more(pictures):
    x = views(pictures + 1)
    batch = {"views": x[:-1], "text": {"states": x[-1]}}
    loss = MultiView(TwoModalities(), loss="mv_info_nce")(batch)["loss"]
    torch.testing.assert_close(loss, mv_info_nce(x))
    if pictures > 1:
        torch.testing.assert_close(MultiView(Identity(), loss="mv_info_nce")(batch)["loss"], mv_info_nce(x[:-1]))


def test_one_text_of_several_pictures_is_not_pushed_from_itself():
    x = views(2)
    x[1, 3] = x[1, 0]
    group = torch.tensor([0, 1, 2, 0, 4])
    batch = {"views": x[:1], "text": {"states": x[1]}, "group": group}
    loss = MultiView(TwoModalities(), exclude_duplicates=True)(batch)["loss"]
    torch.testing.assert_close(loss, mv_dhel(x, group=group))
    assert loss < MultiView(TwoModalities())(batch)["loss"]


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="no loss 'dhel'"):
        MultiView(Identity(), loss="dhel")
    with pytest.raises(UserError, match="no option of mv_dhel 'average'"):
        MultiView(Identity(), options={"average": "arithmetic"})
    with pytest.raises(UserError, match="no option of pairs 'learnable'"):
        MultiView(Identity(), loss="pairs", options={"learnable": True})
    with pytest.raises(UserError, match="pairs of NT-Xent have no groups"):
        MultiView(Identity(), loss="pairs", exclude_duplicates=True)
    with pytest.raises(UserError, match="the batch has 1: set n_views=2"):
        MultiView(Identity())({"image": torch.randn(3, 4)})
    with pytest.raises(UserError, match="two samples at least"):
        MultiView(Identity())({"views": torch.randn(3, 1, 4)})
