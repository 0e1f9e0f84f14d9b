"""Gradient caching: the gradient of a batch is the same for any chunking, in the memory of one chunk."""

import pytest
import torch
from toy import Pairs, batch, gradients

from nearfar.data import train_tokenizer, world
from nearfar.data.batches.batch import rows
from nearfar.methods import CLIP
from nearfar.models import create
from nearfar.training import train
from nearfar.training.loop.gradients import KeptGraphs, backward


def reference(method, data):
    method.zero_grad()
    outputs = method(data)
    outputs["loss"].backward()
    return outputs["loss"].item(), gradients(method)


@pytest.mark.parametrize("chunk", [None, 1, 3, 5, 12, 100])
def test_chunks_give_the_gradient_of_the_whole_batch(chunk):
    data = batch() | {"image": batch()["image"].double()}
    method = Pairs().double()
    loss, expected = reference(method, data)
    method.zero_grad()
    scalars = backward(method, data, chunk=chunk)
    assert scalars["loss"].item() == pytest.approx(loss, rel=1e-12)
    actual = gradients(method)
    assert actual.keys() == expected.keys()
    for name, grad in actual.items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-12)


def test_dropout_is_the_same_in_both_passes():
    """With dropout, the chunked gradient must be the derivative of the loss whose value was returned."""
    method = Pairs(dropout=0.5).double().train()
    data = batch() | {"image": batch()["image"].double()}

    def loss_at(shift):
        with torch.no_grad():
            method.image[0].weight[0, 0] += shift
        torch.manual_seed(7)
        method.zero_grad()
        value = backward(method, data, chunk=5)["loss"].item()
        with torch.no_grad():
            method.image[0].weight[0, 0] -= shift
        return value

    slope = (loss_at(1e-6) - loss_at(-1e-6)) / 2e-6
    loss_at(0.0)
    assert method.image[0].weight.grad[0, 0].item() == pytest.approx(slope, rel=1e-5)


def test_the_random_stream_goes_on_as_after_one_forward_pass():
    method, data = Pairs(dropout=0.5).train(), batch()
    torch.manual_seed(3)
    for start in range(0, 12, 4):
        method.embed(rows(data, start, start + 4, 12))
    expected = torch.rand(1)
    torch.manual_seed(3)
    backward(method, data, chunk=4)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("budget", "passes"), [(0, 5), (2, 4), (3, 3), (100, 3)])
def test_graphs_are_kept_while_the_memory_holds_them(budget, passes):
    """Three chunks: at most three forward passes and two more. The gradient is the same to the bit."""
    method, data, calls = Pairs(dropout=0.5).train(), batch(), []
    embed = method.embed
    method.embed = lambda piece: calls.append(torch.is_grad_enabled()) or embed(piece)
    graphs = KeptGraphs()
    torch.manual_seed(3)
    backward(method, data, chunk=4, graphs=graphs)
    expected = [p.grad.clone() for p in method.parameters()]
    assert calls == [False, False, True, True, True]
    assert graphs.budget > 1 << 20
    graphs.budget = int(budget * 4 * graphs.bytes_a_sample)
    for _ in range(2):
        calls.clear()
        method.zero_grad()
        torch.manual_seed(3)
        backward(method, data, chunk=4, graphs=graphs)
        assert len(calls) == passes
        assert all(torch.equal(p.grad, e) for p, e in zip(method.parameters(), expected, strict=True))


def test_what_a_graph_holds_is_measured_without_the_weights():
    layer = torch.nn.Linear(8, 4, bias=False)
    graphs, x = KeptGraphs(), torch.randn(6, 8)
    with graphs.measured(layer, 6):
        layer(x).sigmoid().sum()
    assert graphs.bytes_a_sample == 4 * (8 + 4)  # the input and the sigmoid's output
    graphs.budget = 600
    assert graphs.fit(6) == 2
    with graphs.measured(layer, 6):
        layer(x[:2]).sum()
    assert graphs.bytes_a_sample == 4 * (8 + 4)  # the largest so far


@pytest.mark.parametrize("kind", ["clip", "pairs"])
def test_a_run_is_the_same_to_the_bit_whatever_memory_is_free(kind, monkeypatch):
    weights = []
    for free in (0, 1 << 40):
        monkeypatch.setattr("nearfar.training.loop.gradients.free_memory", lambda free=free: free)
        torch.manual_seed(0)
        method, data = Pairs(dropout=0.3), [batch()]
        if kind == "clip":
            tokenizer = train_tokenizer(["a red green blue white square"], 300)
            method = CLIP(create("tiny", tokenizer=tokenizer, image_size=32, embed_dim=16))
            data = world.emoji("val", styles=["noto"], tags=False).first(24)
        run = train(method, data, steps=4, batch_size=12, chunk=5, progress=False)
        weights.append(run.method.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


class Normed(Pairs):
    """Pairs whose image tower has a batch norm."""

    def __init__(self, momentum=0.1):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(5, momentum=momentum)

    def embed(self, batch):
        return super().embed({**batch, "image": self.norm(batch["image"])})


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_takes_each_chunk_for_its_batch_and_counts_it_once(momentum):
    data = batch() | {"image": batch()["image"].double()}
    method, plain = Normed(momentum).double().train(), Normed(momentum).double().train()
    pieces = [rows(data, start, start + 4, 12) for start in range(0, 12, 4)]
    embedded = [plain.embed(piece) for piece in pieces]
    whole = {name: torch.cat([piece[name] for piece in embedded]) for name in embedded[0]}
    plain.objective(whole, data)["loss"].backward()
    backward(method, data, chunk=4)
    expected = gradients(plain)
    for name, grad in gradients(method).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-12)
    assert method.norm.num_batches_tracked == plain.norm.num_batches_tracked == 3
    torch.testing.assert_close(method.norm.running_mean, plain.norm.running_mean)
    torch.testing.assert_close(method.norm.running_var, plain.norm.running_var)


def test_a_run_says_that_batch_norm_sees_chunks(capsys):
    quick = {"steps": 1, "lr": 1e-3, "warmup": 0, "report": False}
    train(Normed(), [batch()], chunk=4, batch_size=12, **quick)
    assert "1 batch norms normalise each chunk of 4 samples by itself" in capsys.readouterr().out
    for method, chunk in ((Normed(), None), (Normed(), 12), (Pairs(), 4)):
        train(method, [batch()], chunk=chunk, batch_size=12, **quick)
        assert "batch norm" not in capsys.readouterr().out


def test_several_rows_a_sample_and_targets_without_gradient():
    class Many(Pairs):
        def embed(self, data):
            image = self.image(data["image"])
            with torch.no_grad():
                target = self.text(data["text"]["input_ids"])
            return {"image": image.repeat_interleave(3, 0), "target": target}

        def objective(self, embeddings, data):
            assert not embeddings["target"].requires_grad
            rows = embeddings["image"].view(len(data["index"]), 3, -1).mean(1)
            weights = torch.softmax(rows @ embeddings["target"].T, 1)
            return {"loss": (weights * data["index"]).sum() * self.logit_scale}

    data = batch() | {"image": batch()["image"].double()}
    method = Many().double()
    _, expected = reference(method, data)
    method.zero_grad()
    backward(method, data, chunk=5)
    assert gradients(method).keys() == expected.keys()
    for name, grad in gradients(method).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-10, atol=1e-12)


def test_memory_for_activations_is_that_of_a_chunk():
    """Counts the tensors that embedding keeps for its backward pass, alive at any one time."""
    kept, most = 0, 0

    class Counted:
        def __init__(self, tensor):
            nonlocal kept, most
            self.tensor, self.rows = tensor, tensor.shape[0] if tensor.ndim == 2 and tensor.shape[1] == 16 else 0
            kept += self.rows
            most = max(most, kept)

        def __del__(self):
            nonlocal kept
            kept -= self.rows

    def peak(chunk):
        nonlocal kept, most
        kept = most = 0
        with torch.autograd.graph.saved_tensors_hooks(Counted, lambda counted: counted.tensor):
            backward(Pairs(), batch(64), chunk=chunk)
        return most

    assert peak(8) <= peak(None) / 6
