"""SepCLR as a method: which records are its background, and that it does what the paper says, on a table."""

import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from nearfar.data import Records
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.losses import functional as F
from nearfar.methods import SepCLR
from nearfar.models import common_salient, image_encoder


class Heads(nn.Module):
    """Two encoders of rows `[B, D]`."""

    def __init__(self, dim=5, common=4, salient=2, hidden=64):
        super().__init__()
        self.common, self.salient = (
            nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, out)) for out in (common, salient)
        )

    def project(self, rows):
        return self.common(rows), self.salient(rows)


def batch(n=6, dim=5, seed=0):
    views = torch.randn(2, n, dim, generator=torch.Generator().manual_seed(seed))
    return {"views": views, "label": torch.tensor([3, 0, 3, 1, 2, 3])}


def test_one_class_is_the_background_and_all_others_the_target():
    torch.manual_seed(0)
    model, data = Heads(), batch()
    weights = {"variance": 0.7, "beta_salient": 2.0, "beta_infoless": 3.0, "lambda_jem": 4.0, "uniformity_weight": 1.0}
    out = SepCLR(model, background=3, **weights)(data)
    common, salient = (torch.stack(x) for x in zip(*map(model.project, data["views"]), strict=True))
    torch.testing.assert_close(out["loss"], F.sepclr(common, salient, data["label"] != 3, **weights))
    terms = out["common"] + 2 * out["salient"] + 3 * out["infoless"] + 4 * out["jem"]
    torch.testing.assert_close(out["loss"].detach(), terms)
    length = salient.square().sum(2).mean(0)
    torch.testing.assert_close(out["salience_target"], length[[1, 3, 4]].mean())
    torch.testing.assert_close(out["salience_background"], length[[0, 2, 5]].mean())


def test_the_background_is_a_class_by_name():
    source = Records([{"label": i % 3} for i in range(6)], classes=["glaucoma", "healthy", "cataract"])
    method = SepCLR(Heads(), background="healthy")
    method.begin(DataInfo.of(source))
    data = batch() | {"label": torch.tensor([1, 0, 1, 2, 0, 1])}
    by_number = SepCLR(method.model, background=1)(data)
    assert torch.equal(method(data)["loss"], by_number["loss"])


@pytest.mark.parametrize(
    ("classes", "words"), [(["cat", "dog"], "has cat, dog: say which it is by background"), (None, "has no classes")]
)
def test_a_background_that_is_not_there_is_named(classes, words):
    source = Records([{"label": i % 2} for i in range(4)], classes=classes)
    with pytest.raises(UserError, match=f"needs the class 'plain', its background, and .* {words}"):
        SepCLR(Heads(), background="plain").begin(DataInfo.of(source))


def test_what_it_cannot_do_without():
    with pytest.raises(UserError, match=r"model\.make: common_salient"):
        SepCLR(image_encoder("micro-resnet"))
    with pytest.raises(UserError, match="needs a label for each sample"):
        SepCLR(Heads(), background=0)({"views": torch.randn(2, 3, 5)})


def test_each_view_has_its_own_batch_statistics():
    torch.manual_seed(0)
    model = common_salient(preset="micro-resnet", projector={"layers": 2, "hidden": 8, "out": 4, "norm": "hidden"})
    views = torch.rand(2, 6, 3, 32, 32)
    views[1] *= 0.1
    heads = [model.project(view) for view in views]
    common, salient = (torch.stack(x) for x in zip(*heads, strict=True))
    label = batch()["label"]
    out = SepCLR(model, background=3)({"views": views, "label": label})
    torch.testing.assert_close(out["loss"], F.sepclr(common, salient, label != 3))


def table(n, generator, mixing):
    """Rows of 12 numbers, four common factors in all of them and two salient ones in the second half alone."""
    u, w = torch.randn(n, 4, generator=generator), 1.5 * torch.randn(n, 2, generator=generator)
    target = torch.arange(n) >= n // 2
    w = w * target[:, None]
    return u @ mixing[0] + w @ mixing[1], u, w, target


@pytest.mark.parametrize(("lambda_jem", "leaks"), [(10.0, False), (0.0, True)])
def test_k_jem_takes_what_is_salient_out_of_the_common_space(lambda_jem, leaks):
    """The paper's whole claim on a table, by linear maps from each space on held-out rows of the target: with k-JEM the
    salient factors are in s and not in c, and the common ones in c and not in s."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 12, generator=generator) / 2, torch.randn(2, 12, generator=generator) / 2
    torch.manual_seed(0)
    method = SepCLR(Heads(12), background=0, lambda_jem=lambda_jem)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3)
    for _ in range(400):
        x, _, _, target = table(128, generator, mixing)
        views = torch.stack([x + 0.2 * torch.randn(x.shape, generator=generator) for _ in range(2)])
        optimizer.zero_grad()
        method({"views": views, "label": target.long()})["loss"].backward()
        optimizer.step()
    x, u, w, target = (value[2000:] for value in table(4000, generator, mixing))
    with torch.no_grad():
        c, s = method.model.project(x)
    c = nn.functional.normalize(c, dim=1)
    fit = lambda z, y: LinearRegression().fit(z[:1000], y[:1000]).score(z[1000:], y[1000:])  # noqa: E731
    assert target.all()
    assert fit(s, w) > 0.85
    assert fit(s, u) < 0.05
    assert fit(c, w) > 0.4 if leaks else fit(c, w) < 0.1
    assert leaks or fit(c, u) > 0.7
