import math

import pytest
import torch

from nearfar.errors import UserError
from nearfar.evaluation.language.generation import coherence, diversity, generation, repetition


def test_repetition_by_hand():
    text = "a b a b a b a b"  # bigrams: ab ba ab ba ab ba ab
    assert repetition([text], 2) == pytest.approx(1 - 2 / 7)
    assert repetition([text], 3) == pytest.approx(1 - 2 / 6)
    assert repetition([text], 4) == pytest.approx(1 - 2 / 5)
    assert diversity([text]) == pytest.approx(8 / 210)
    assert diversity([text], released=True) == pytest.approx(1 / 15)


def test_unique_n_grams_are_counted_in_each_text():
    assert repetition(["a b c", "a b c"], 2) == 0
    assert repetition(["a b a b", "x y z"], 2) == pytest.approx(1 - 4 / 5)


def test_a_text_of_exactly_n_words_has_one_n_gram():
    assert repetition(["a b"], 2) == 0
    assert math.isnan(repetition(["a b"], 2, released=True))
    assert math.isnan(repetition(["a"], 2))


def test_texts_without_spaces():
    assert repetition(["abab"], 2, words=list) == pytest.approx(1 - 2 / 3)


@pytest.fixture(scope="module")
def judge():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def test_coherence_is_the_mean_log_probability_of_the_continuation(judge):
    prompts = [[3, 4, 5], [6], [7, 8]]
    texts = [[9, 10], [11, 12, 13, 14], [15]]
    ours = coherence(judge, prompts, texts, batch_size=2)
    for value, prompt, text in zip(ours, prompts, texts, strict=True):
        with torch.no_grad():
            logs = judge(torch.tensor([prompt + text])).logits[0].double().log_softmax(-1)
        expected = sum(logs[len(prompt) + i - 1, token] for i, token in enumerate(text)) / len(text)
        assert value.item() == pytest.approx(expected.item(), abs=1e-5)


def test_result(judge):
    texts = ["a b a b a b", "c d e f g h"]
    coherences = torch.tensor([-1.0, -3.0], dtype=torch.float64)
    result = generation(texts, coherences=coherences)
    assert result["diversity"] == pytest.approx(diversity(texts))
    assert result["coherence"] == -2
    assert result["perplexity"] == pytest.approx(math.exp(2))
    assert "coherence" not in generation(texts).metrics


def test_bad_input(judge):
    with pytest.raises(UserError, match="1 prompts but 2"):
        coherence(judge, [[1]], [[2], [3]])
    with pytest.raises(UserError, match=r"continuations \[1\] and prompts \[0\]"):
        coherence(judge, [[], [1]], [[2], []])
