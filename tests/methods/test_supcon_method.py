"""Supervised contrast: labels as positives, samples without a label, and the values of its loss at the edges."""

import math

import pytest
import torch

from methods.image_batches import PAIR, TOGETHER, Identity, Normed
from nearfar.errors import UserError
from nearfar.losses.functional import supcon
from nearfar.methods import SimCLR, SupCon
from oracles import contrastive as oracle


def views(count=2, n=6):
    return torch.randn(count, n, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 3])
def test_all_views_of_a_class_are_positives(count):
    label = torch.tensor([0, 1, 1, 3, 0, 0])
    loss = SupCon(Identity(), temperature=0.3)({"views": views(count), "label": label})["loss"]
    torch.testing.assert_close(loss, oracle.supcon(views(count).flatten(0, 1), label.repeat(count), 0.3))


@pytest.mark.parametrize("label", [torch.arange(6), torch.full((6,), -1)])
def test_samples_of_their_own_class_or_of_none_give_simclr_s_loss(label):
    data = {"views": views(), "label": label}
    torch.testing.assert_close(SupCon(Identity())(data)["loss"], SimCLR(Identity())(data)["loss"])


def test_anchors_without_a_positive_do_not_count():
    """Four orthogonal rows, two of one label: the mean over these two is ln 3, at any temperature."""
    rows = torch.eye(4, requires_grad=True)
    assert supcon(rows, torch.tensor([0, 1, 1, 3]), temperature=0.8).item() == pytest.approx(math.log(3))
    loss = supcon(rows, torch.arange(4), temperature=0.8)
    loss.backward()
    assert loss.item() == 0
    assert rows.grad.abs().max() == 0


def test_the_views_of_a_batch_share_their_statistics():
    embedded = SupCon(Normed()).embed({"views": PAIR})
    assert torch.cat(list(embedded.values())).flatten().tolist() == pytest.approx(TOGETHER, abs=1e-4)


def test_data_without_labels_are_a_sentence():
    with pytest.raises(UserError, match="SupCon's objective needs the batch key 'label'"):
        SupCon(Identity())({"views": views()})
