"""Any method within clusters, MoCo's queue within clusters, and methods on the newest part of a concatenation (MCL)."""

import pytest
import torch
from torch import nn

from methods.image_batches import Identity
from nearfar import ops
from nearfar.errors import UserError
from nearfar.methods import CLIP, MoCo, SimCLR, WithinClusters
from nearfar.methods.parts.feature_queue import queue_info_nce
from nearfar.models import concatenated, image_encoder

CLUSTER = torch.tensor([0, 1, 0, 1, 0, 2])
VIEWS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))


class Same(nn.Module):
    """Gives what it gets."""

    def encode_image(self, pixels, normalize=False):
        return pixels

    encode_text = encode_image


def test_it_is_the_mean_of_pure_batches():
    method = WithinClusters(Same(), of={"name": "simclr", "temperature": 0.2})
    out = method({"views": VIEWS, "cluster": CLUSTER})
    plain = SimCLR(Same(), temperature=0.2)
    parts = {c: plain({"views": VIEWS[:, c == CLUSTER]}) for c in (0, 1)}
    torch.testing.assert_close(out["loss"], (3 * parts[0]["loss"] + 2 * parts[1]["loss"]) / 6)
    torch.testing.assert_close(out["spread"], (3 * parts[0]["spread"] + 2 * parts[1]["spread"]) / 5)
    assert set(method.reads) == {"cluster"}
    assert (method.views, method.n_views) == (SimCLR.views, 2)


def test_what_the_inner_method_reads_is_cut_alike():
    """Duplicates and hard captions, several rows a sample."""
    from nearfar.methods import NegCLIP

    generator = torch.Generator().manual_seed(1)
    image, text = torch.randn(2, 6, 8, generator=generator)
    hard = torch.randn(12, 8, generator=generator)
    group = torch.tensor([0, 1, 0, 3, 4, 5])
    of = {"exclude_duplicates": True, "temperature": 0.2}
    batch = {"image": image, "text": text, "negative_text": hard, "group": group, "cluster": CLUSTER}
    value = WithinClusters(Same(), of={"name": "negclip", **of})(batch)["loss"]
    plain, total = NegCLIP(Same(), **of), 0.0
    for c in (0, 1):
        keep = c == CLUSTER
        own = {"image": image[keep], "text": text[keep], "group": group[keep]}
        own["negative_text"] = hard.unflatten(0, (6, 2))[keep].flatten(0, 1)
        total += plain(own)["loss"] * int(keep.sum()) / 6
    torch.testing.assert_close(value, total)


def test_the_temperature_is_the_inner_method_s():
    method = WithinClusters(Same(), of={"name": "clip", "temperature": 0.2})
    assert method.learned() == pytest.approx({"temperature": 0.2})
    method({"image": VIEWS[0], "text": VIEWS[1], "cluster": CLUSTER})["loss"].backward()
    assert [p.grad is not None for p in method.parameters()] == [True]


def test_methods_that_have_no_embeddings_or_no_cluster():
    with pytest.raises(UserError, match="methods whose loss goes by embeddings: MoCo does not"):
        WithinClusters(Same(), of={"name": "moco"})
    with pytest.raises(UserError, match="trains by some method"):
        WithinClusters(Same(), of={})
    with pytest.raises(UserError, match="needs the batch key 'cluster', which these data do not have"):
        WithinClusters(Same(), of={"name": "simclr"})({"views": VIEWS})


def test_the_queue_s_negatives_are_of_the_query_s_cluster():
    q, k = (torch.nn.functional.normalize(each, dim=1) for each in VIEWS)
    queue = torch.nn.functional.normalize(torch.randn(9, 8, generator=torch.Generator().manual_seed(2)), dim=1)
    own = torch.tensor([0, 0, 1, 1, 1, 0, -100, 5, 0])
    value = queue_info_nce(q, k, queue, 0.2, group=CLUSTER, queue_group=own)
    total = 0.0
    for i in range(6):
        logits = torch.cat([(q[i] * k[i]).sum()[None], queue[own == CLUSTER[i]] @ q[i]]) / 0.2
        total += torch.nn.functional.cross_entropy(logits[None], torch.tensor([0])) / 6
    torch.testing.assert_close(value, total)


def test_a_query_without_negatives_adds_nothing():
    q = VIEWS[0].clone().requires_grad_()
    queue = torch.nn.functional.normalize(VIEWS[1], dim=1)
    loss = queue_info_nce(q, q.detach(), queue, 0.2, group=torch.full((6,), 3), queue_group=torch.full((6,), -100))
    loss.backward()
    assert loss.item() == 0
    assert (q.grad == 0).all()


def test_moco_keeps_each_key_s_cluster():
    method = MoCo(Identity(8), queue_size=8, within="cluster", momentum=0.5).train()
    batch = {"views": VIEWS.clone().requires_grad_(), "cluster": CLUSTER, "index": torch.arange(6)}
    method.before_step()
    first = method(batch)["loss"]
    assert first.item() == 0, "the random directions of an empty queue are of no cluster"
    first.backward()
    method.after_step(1)
    assert method.queue.group.tolist() == [*CLUSTER.tolist(), -100, -100]
    assert method(batch)["loss"].item() > 0
    with pytest.raises(UserError, match="which the batch does not have"):
        method({"views": VIEWS})


def test_methods_train_the_newest_part_alone():
    """The frozen parts take no gradient, their batch norm stays, and the slow copy is of the newest part alone."""
    parts = [image_encoder("micro-resnet", projector={"hidden": 16, "out": 8}) for _ in range(2)]
    model = concatenated(parts)
    before = {name: value.clone() for name, value in model.parts[0].state_dict().items()}
    for method in (SimCLR(model), MoCo(model, queue_size=8)):
        method.train().zero_grad()
        method({"views": torch.rand(2, 4, 3, 32, 32)})["loss"].backward()
        assert all(p.grad is None for p in model.parts[0].parameters())
        assert any(p.grad is not None for p in model.newest.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.parts[0].state_dict().items())
    slow = method.teacher.module
    assert type(slow) is type(model.newest)


def test_pairs_are_embedded_by_the_newest_part():
    class Two(Same):
        newest = Same()

        def encode_image(self, pixels, normalize=False):
            raise AssertionError("the whole is not embedded in training")

        encode_text = encode_image

    pair = {"image": VIEWS[0], "text": VIEWS[1]}
    assert CLIP(Two(), temperature=0.2)(pair)["loss"] == CLIP(Same(), temperature=0.2)(pair)["loss"]


def test_what_is_alike_in_a_whole_cluster_takes_no_part_in_the_loss():
    """Logits <u_i, u'_j> + <v_i, w_j>: where u and u' are the same for all samples of a cluster, each logit gains one
    number. Neither the loss nor what v and w learn changes, and u learns nothing, row by row from the rows' half of
    CLIP's loss, in the sum from the columns': so a stage within clusters can only learn what tells samples apart."""
    generator = torch.Generator().manual_seed(3)
    v, w = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    u, other = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    for symmetric in (False, True):
        alone = [each.clone().requires_grad_() for each in (v, w)]
        without = ops.info_nce(*alone, 2.0, symmetric=symmetric)
        without.backward()
        beside = [torch.cat([block.expand(5, 3), each], 1).requires_grad_() for block, each in ((u, v), (other, w))]
        value = ops.info_nce(*beside, 2.0, symmetric=symmetric)
        value.backward()
        torch.testing.assert_close(value, without)
        for whole, part in zip(beside, alone, strict=True):
            torch.testing.assert_close(whole.grad[:, 3:], part.grad)
        of_u = beside[0].grad[:, :3]
        nothing = of_u.sum(0) if symmetric else of_u
        torch.testing.assert_close(nothing, torch.zeros_like(nothing))
        assert symmetric == (of_u.abs().max().item() > 1e-3)
    apart = torch.cat([torch.randn(5, 3, generator=generator, dtype=torch.float64), w], 1)
    assert abs(ops.info_nce(beside[0], apart, 2.0, symmetric=False) - without) > 1e-2
