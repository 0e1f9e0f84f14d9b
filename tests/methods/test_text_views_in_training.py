"""Views of texts in training: SimCSE trains on them, logs how many negations changed, and validates on plain texts."""

import torch
from torch import nn

from nearfar.data import Records, train_tokenizer
from nearfar.methods import SimCSE
from nearfar.training import TrainConfig
from nearfar.training.loop.loaders import make_loader

TEXTS = [f"record {i} is not the number {i + 1} of those that stand here" for i in range(16)]
TOKENIZER = train_tokenizer(TEXTS, 300)


class Bag(nn.Module):
    """The mean of the words' vectors, without dropout: only the views make two passes differ."""

    embed_dim, max_length, tokenizer = 8, 32, TOKENIZER

    def __init__(self):
        super().__init__()
        self.text = nn.EmbeddingBag(len(TOKENIZER), 8)

    def encode_text(self, tokens):
        return self.text(tokens["input_ids"])


def batches(training=True, **settings):
    records = Records([{"text": text} for text in TEXTS])
    config = TrainConfig(steps=2, batch_size=8)
    return make_loader(records, Bag(), config, training=training, text_pairs=True, **settings)


def test_simcse_trains_on_views_and_logs_the_share_of_changed_negations():
    method = SimCSE(Bag(), head="none").train()
    batch = next(iter(batches(text_views="clear-words")))
    out = method(batch)
    assert out["negation_changed"].item() == batch["negation_changed"].float().mean().item() > 0
    out["loss"].backward()
    assert method.model.text.weight.grad.abs().sum() > 0
    assert "negation_changed" not in method(next(iter(batches(text_views="shuffle"))))


def test_validation_reads_texts_as_they_are():
    batch = next(iter(batches(training=False, text_views="clear-words")))
    assert "text2" not in batch
    assert torch.equal(batch["text"]["input_ids"], next(iter(batches(training=False)))["text"]["input_ids"])
