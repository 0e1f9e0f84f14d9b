"""Matryoshka around every loss: the sum of the losses of embeddings that were cut by hand, and the plain loss at D."""

import pytest
import torch
from torch.utils._pytree import tree_map

from losses.test_every_loss import LABEL, MODULES, STATEFUL, TWINS, vectors
from nearfar import losses
from nearfar.errors import UserError
from nearfar.losses import InfoNCE, Matryoshka

OF_MAPS = {"PixContrast", "PixelConsistency"}
"""Losses of maps, whose last dimension is a row of cells."""
CALLS = {
    type(module).__name__: call
    for module, call in TWINS.values()
    if type(module).__name__ not in STATEFUL and type(module).__name__ not in OF_MAPS
}
CALLS["MatchmapInfoNCE"] = lambda f, a, b: f(
    torch.stack([a, b.roll(1, 0)], 1), torch.stack([b, a.roll(2, 0)], 1), mask=LABEL[:, None] > torch.arange(2)
)


def made(name):
    return MODULES[name]().double() if name != "AlignmentUniformity" else MODULES[name](weight=0.5)


class Narrowed(torch.nn.Module):
    """The loss of whatever is 16 wide, cut by hand."""

    def __init__(self, loss, dim):
        super().__init__()
        self.loss, self.dim = loss, dim

    def forward(self, *args, **options):
        def cut(x):
            return x[..., : self.dim] if isinstance(x, torch.Tensor) and x.shape[-1:] == (16,) else x

        args, options = tree_map(cut, (args, options))
        return self.loss(*args, **options)


@pytest.mark.parametrize("name", CALLS)
def test_one_whole_width_is_the_loss_as_it_is(name):
    a, b = vectors(dtype=torch.float64)
    loss = made(name)
    assert torch.equal(CALLS[name](Matryoshka(loss, [16]), a, b), CALLS[name](loss, a, b))


@pytest.mark.parametrize("name", CALLS)
def test_it_is_the_weighted_sum_over_widths(name):
    a, b = (x.requires_grad_() for x in vectors(dtype=torch.float64))
    loss = made(name)
    out = CALLS[name](Matryoshka(loss, [3, 8, 16], weights=[2.0, 0.0, 0.5]), a, b)
    by_hand = 2 * CALLS[name](Narrowed(loss, 3), a, b) + 0.5 * CALLS[name](loss, a, b)
    torch.testing.assert_close(out, by_hand)
    # Called with one set of vectors, or with a teacher's, which take no gradient.
    alone = ("AlignmentUniformity", "RehearsalContrastive", "TargetAlignment")
    inputs = (a,) if name in alone else (a, b)
    for mine, theirs in zip(torch.autograd.grad(out, inputs), torch.autograd.grad(by_hand, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_loss_is_tried():
    assert set(CALLS) | (set(MODULES) & STATEFUL) | OF_MAPS == set(MODULES)


def test_a_mask_as_wide_as_the_embeddings_is_not_cut():
    a, b = vectors(dtype=torch.float64)
    local, mask = torch.stack([a, b] * 8, 1), (LABEL[:, None] > torch.arange(16)).double()
    loss = losses.GlobalLocalInfoNCE(0.1)
    expected = loss(a[:, :4], local[..., :4], mask=mask)
    torch.testing.assert_close(Matryoshka(loss, [4])(a, local, mask=mask), expected)


def test_the_paper_by_hand():
    """Two pairs, temperature 1. At width 1 both rows are one number: log 2. At width 2 they stand at a right angle."""
    a = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    out = Matryoshka(InfoNCE(1.0), [1, 2])(a, a)
    expected = torch.log(torch.tensor(2.0)) + torch.log1p(torch.tensor(-1.0).exp())
    torch.testing.assert_close(out, expected)


def test_its_temperature_is_the_losses_own():
    loss = Matryoshka(InfoNCE(), [4, 16])
    assert [name for name, _ in loss.named_parameters()] == ["loss.temperature.value"]
    loss(*vectors()).backward()
    assert loss.loss.temperature.value.grad.abs() > 0


def test_what_does_not_fit_is_named():
    a, b = vectors()
    with pytest.raises(UserError, match="GlobalContrastive keeps something of each sample"):
        Matryoshka(losses.GlobalContrastive(24), [4, 16])
    for loss in (losses.PixContrast(), losses.PixelConsistency()):
        with pytest.raises(
            UserError, match=f"{type(loss).__name__} takes maps, whose last dimension is a row of cells"
        ):
            Matryoshka(loss, [4, 16])
    for dims in ([], [0, 4], [4, 4], [8, 4]):
        with pytest.raises(UserError, match="name widths from 1 on, each larger"):
            Matryoshka(InfoNCE(), dims)
    for weights in ([1.0], [1, -1], [0, 0], [1.0, float("nan")]):
        with pytest.raises(UserError, match=r"weights=.*one a width \(2\)"):
            Matryoshka(InfoNCE(), [4, 8], weights)
    with pytest.raises(UserError, match=r"dims=\[4, 32\], but the embeddings a have 16 numbers"):
        Matryoshka(InfoNCE(), [4, 32])(a, b)
    with pytest.raises(UserError, match="one width, got a 16, b 8"):
        Matryoshka(InfoNCE(), [4])(a, b[:, :8])
