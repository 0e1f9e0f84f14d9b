import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation.language.isotropy import IsotropyMeter, isotropy, language_model_isotropy, plot_isotropy


def slow(hidden, mask):
    """Cosine by cosine."""
    tokens = [
        (b, hidden[b, t] / hidden[b, t].norm())
        for b in range(len(hidden))
        for t in range(hidden.shape[1])
        if mask[b, t]
    ]
    within, across = [], []
    for i, (b, x) in enumerate(tokens):
        for j, (c, y) in enumerate(tokens):
            if i != j:
                (within if b == c else across).append(x @ y)
    return 1 - torch.stack(within).mean(), 1 - torch.stack(across).mean()


def test_equals_the_mean_over_all_pairs():
    hidden = torch.randn(3, 5, 4, dtype=torch.float64) + 0.5
    mask = torch.tensor([[1] * 5, [0, 0, 1, 1, 1], [1, 0, 0, 0, 0]])
    within, across = slow(hidden, mask)
    ours = isotropy(hidden, mask)
    assert ours.within == pytest.approx(within.item())
    assert ours.across == pytest.approx(across.item())


def test_batches_add_up():
    hidden, mask = torch.randn(4, 6, 3), (torch.rand(4, 6) < 0.8).long()
    meter = IsotropyMeter()
    meter.update(hidden[:1], mask[:1])
    meter.update(hidden[1:], mask[1:])
    assert meter.compute() == pytest.approx(isotropy(hidden, mask))


def test_known_values():
    assert isotropy(torch.ones(1, 5, 3)).within == pytest.approx(0)
    assert isotropy(torch.eye(5)[None]).within == pytest.approx(1)
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    assert isotropy(opposite).within == pytest.approx(2)  # the bound 1 + 1 / (n - 1) at n = 2
    assert torch.isnan(torch.tensor(isotropy(torch.ones(1, 1, 3))[0]))


def test_never_above_its_bound():
    for n in (2, 3, 7):
        for seed in range(5):
            hidden = torch.randn(1, n, 4, generator=torch.Generator().manual_seed(seed))
            assert isotropy(hidden).within <= 1 + 1 / (n - 1) + 1e-9


def test_padding_may_hold_anything():
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    expected = isotropy(hidden, mask)
    hidden[1, 3] = torch.nan
    assert isotropy(hidden, mask) == pytest.approx(expected)


@pytest.fixture(scope="module")
def model():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def test_language_model_by_layer(model, tmp_path):
    ids = torch.randint(3, 50, (4, 9))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    result = language_model_isotropy(
        model, [{"input_ids": ids[:2], "attention_mask": mask[:2]}, {"input_ids": ids[2:]}]
    )
    assert list(result.by["layer"]) == ["0", "1", "2", "3"]
    with torch.no_grad():
        layers = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer, hidden in enumerate(layers):
        expected = isotropy(hidden, mask)
        assert result.by["layer"][str(layer)]["within"].value == pytest.approx(expected.within, abs=1e-5)
        assert result.by["layer"][str(layer)]["across"].value == pytest.approx(expected.across, abs=1e-5)
    assert result["within"] == result.by["layer"]["3"]["within"].value
    later = language_model_isotropy(model, [{"input_ids": ids, "attention_mask": mask}], skip=1)
    assert later["within"] == pytest.approx(isotropy(layers[-1][:, 1:], mask[:, 1:]).within, abs=1e-5)
    path = plot_isotropy({"model": result, "without the first token": later}, tmp_path / "isotropy.svg")
    assert path.read_text().startswith("<?xml")


def test_bad_input(model):
    with pytest.raises(UserError, match="no texts"):
        language_model_isotropy(model, [])
    with pytest.raises(ValueError, match=r"\[B, T, D\]"):
        isotropy(torch.randn(3, 4))
