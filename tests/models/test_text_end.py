"""A text tower that looks for the end of a text finds it with any tokenizer."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import nearfar
from models.dual_families import SIDES, TEXT, clip
from nearfar.errors import UserError
from nearfar.models import create
from nearfar.models.language import language_model

TEXTS = ["a red fox", "the ship at sea runs", "cat"]


def clip_that_ends_by(identity):
    from transformers import CLIPConfig, CLIPModel

    sides = {**SIDES, "text_config": {**TEXT, "eos_token_id": identity}}
    return CLIPModel(CLIPConfig(**sides, projection_dim=24)).eval()


def last_states(theirs, tokens):
    states = theirs.text_model(**tokens).last_hidden_state
    return states[torch.arange(len(TEXTS)), tokens["attention_mask"].sum(1) - 1]


@pytest.mark.parametrize("identity", [2, 17])
def test_an_end_that_the_tower_does_not_know(identity, tokenizer):
    """Id 17 is a word here, so that CLIP would take the first token, which has read nothing; of towers that end by 2
    it takes the largest id."""
    theirs = clip_that_ends_by(identity)
    ours = nearfar.load(theirs, tokenizer=tokenizer)
    tokens = ours.tokenize(TEXTS)
    assert ours.text.pooling == "eos"
    torch.testing.assert_close(ours.encode_text(tokens), theirs.text_projection(last_states(theirs, tokens)))
    unit = ours.encode_text(tokens, normalize=True)
    assert (unit @ unit.T).fill_diagonal_(0).max() < 0.999


def test_an_end_that_it_knows_is_left_to_it(tokenizer):
    assert nearfar.load(clip().eval(), tokenizer=tokenizer).text.pooling == "tower"


def test_create_with_a_tower_and_another_tokenizer(vit, tokenizer, tmp_path):
    theirs = clip_that_ends_by(17)
    theirs.save_pretrained(tmp_path)
    for text in (str(tmp_path), theirs.text_model):
        made = create(image=vit, text=text, tokenizer=tokenizer)
        assert made.text.pooling == "eos"
    chosen = create(image=vit, text=str(tmp_path), tokenizer=tokenizer, text_pooling="tower")
    assert chosen.text.pooling == "tower"


def test_two_texts_with_one_embedding_are_refused(tokenizer):
    theirs = clip().eval()
    torch.nn.init.zeros_(theirs.text_projection.weight)
    with pytest.raises(UserError, match="gives two different texts one embedding"):
        nearfar.load(theirs, tokenizer=tokenizer)


def test_a_tokenizer_without_words_is_refused(vit, bert, tmp_path):
    """transformers 5 reads no `vocab_file=`, raises nothing, and would give texts of one length the same ids."""
    from transformers import BertTokenizer, CLIPTokenizer

    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "fox"]))
    empty = BertTokenizer(vocab_file=str(vocabulary))
    for make in (
        lambda: nearfar.load(clip_that_ends_by(2), tokenizer=CLIPTokenizer()),
        lambda: create(image=vit, text=bert, tokenizer=empty),
        lambda: language_model("tiny", tokenizer=empty),
    ):
        with pytest.raises(UserError, match="special tokens and no word: read its folder with AutoTokenizer"):
            make()
    assert create(image=vit, text=bert, tokenizer=BertTokenizer(str(vocabulary)))


def test_training_gets_off_log_b(tokenizer):
    """With the first token as the summary of every text the loss would stay at log 3."""
    from nearfar.methods import CLIP

    ours = nearfar.load(clip_that_ends_by(17).train(), tokenizer=tokenizer)
    data = [{"image": torch.randn(3, 3, 32, 32), "text": ours.tokenize(TEXTS)}]
    run = nearfar.train(CLIP(ours), data, steps=30, lr=1e-3, warmup=0, progress=False)
    assert run.history[-1]["loss"] < 0.5 * torch.log(torch.tensor(3.0))
    assert F.cosine_similarity(*ours.encode_text(data[0]["text"])[:2], dim=0) < 0.9
