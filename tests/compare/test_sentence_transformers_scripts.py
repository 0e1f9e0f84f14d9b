"""SimCSE on pairs with hard negatives beside sentence-transformers' MultipleNegativesRankingLoss: one model's batches
and steps give the same losses and the same model."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from installed import needs
from nearfar.data import train_tokenizer
from nearfar.export.sentence_encoder import export_sentence_encoder
from nearfar.losses.functional import first_view_info_nce
from nearfar.methods import SimCSE
from nearfar.models import text_encoder
from nearfar.training.loop.gradients import backward

pytestmark = needs("sentence_transformers")

NAMES = ["a red car", "two small dogs", "the old house", "a boat at sea", "one red fish", "a tall tower"]
OTHERS = [
    "an automobile",
    "a pair of puppies",
    "an ancient building",
    "a ship",
    "an animal in water",
    "a high building",
]
WRONG = ["a red cart", "two small docks", "the old mouse", "a coat to see", "one red dish", "a tall flower"]
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CALM = {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def their_loss(model):
    from sentence_transformers import losses

    return losses.MultipleNegativesRankingLoss(model, scale=20.0)


def test_on_embeddings():
    a, b, hard, harder = torch.randn(4, 8, 16, dtype=torch.float64)
    actual = first_view_info_nce([a, b], negatives=torch.cat([hard, harder]))
    expected = their_loss(None).compute_loss_from_embeddings([a, b, hard, harder], torch.zeros(8))
    torch.testing.assert_close(actual, expected)


def test_ten_steps_of_training(tmp_path):
    tokenizer = train_tokenizer([*NAMES, *OTHERS, *WRONG] * 9, 300)
    ours = text_encoder(BERT | CALM, tokenizer=tokenizer, pooling="mean").train()
    export_sentence_encoder(ours, tmp_path / "theirs")
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(tmp_path / "theirs"), device="cpu").train()
    method, loss = SimCSE(ours, head="none").train(), their_loss(theirs)
    batch = {"text": ours.tokenize(NAMES), "text2": ours.tokenize(OTHERS), "negative_text": ours.tokenize(WRONG)}
    batch["negative_count"] = torch.ones(6, dtype=torch.long)
    features = [dict(batch[key]) for key in ("text", "text2", "negative_text")]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    for step in range(10):
        for optimizer in optimizers:
            optimizer.zero_grad()
        actual = backward(method, batch)["loss"]
        expected = loss([dict(each) for each in features], torch.zeros(6))
        expected.backward()
        assert actual.item() == pytest.approx(expected.item(), rel=1e-4), step
        for optimizer in optimizers:
            optimizer.step()
    theirs.eval(), ours.eval()
    np.testing.assert_allclose(theirs.encode([*NAMES, *OTHERS]), ours.encode([*NAMES, *OTHERS]), atol=1e-4)


@pytest.mark.timeout(300)
def test_beside_sentence_transformers(tmp_path, monkeypatch, capsys):
    """The benchmark of both trainers runs, at its smallest, and writes what it promises."""
    text_encoder(BERT | CALM, tokenizer=train_tokenizer([*NAMES, *OTHERS] * 9, 300), pooling="mean").save_pretrained(
        tmp_path / "model"
    )
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    script = importlib.import_module("beside_sentence_transformers")
    out, threads = tmp_path / "made" / "beside.json", torch.get_num_threads()
    flags = f"--steps 2 --batch 8 --seeds 0 1 --threads 1 --model {tmp_path / 'model'} --output {out}"
    monkeypatch.setattr(sys, "argv", ["beside_sentence_transformers.py", *flags.split()])
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    record = json.loads(out.read_text())
    for library in script.LIBRARIES:
        assert len(record["cpu_s"][library]) == len(record[script.FIGURE][library]) == 2
        assert min(record[script.FIGURE][library]) > 0
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
