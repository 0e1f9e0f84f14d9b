"""What a model writes of sounds beside what was said."""

import numpy as np
import pytest
import torch

from nearfar.data import Records, train_tokenizer
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.models.sound.sound_transcriber import Transcript, sound_transcriber


class Parrot:
    """Writes what stands in the sound itself; nothing of a broken one."""

    def read_audio(self, sound):
        from nearfar.data import BadSound

        if sound is None:
            raise BadSound("no sound")
        return sound

    def preprocess_audio(self, sounds):
        return sounds

    def transcribe(self, audio):
        return [Transcript(*each) for each in audio]


def spoken(*heard):
    """Of each: label, words, the task, and what is written."""
    rows = [{"label": label, "text": text, "task": task, "audio": audio} for label, text, task, audio in heard]
    return Records(rows, name="spoken", classes=["on", "off"])


def test_the_figures():
    source = spoken(
        (0, "lights on", 1, (0, "lights on")),
        (0, "Turn it on", 1, (1, "turn it")),
        (1, "lights off", 2, (1, "lights of")),
        (1, "off", 2, (1, "turn it off")),
        (-1, "what", 2, (1, "what")),
    )
    [result] = evaluate(Parrot(), source, ["transcription"]).values()
    assert result["top1"] == 0.75
    assert result["wer"] == (0 + 1 + 1 + 2) / (2 + 3 + 2 + 1)
    assert result.by["task"]["1"]["top1"].value == 0.5
    assert result.by["task"]["2"]["wer"].value == 1.0
    assert result.by["class"]["on"]["wer"].value == 0.2
    assert result.metrics["top1"].chance == 0.5
    assert result.metrics["wer"].low <= result["wer"] <= result.metrics["wer"].high


def test_broken_sounds_are_left_out_and_counted():
    good = (0, "on", 1, (0, "on"))
    source = spoken(*[good] * 19, (1, "off", 1, None))
    [result] = evaluate(Parrot(), source, ["transcription"]).values()
    assert result.details["skipped"] == 1
    assert result.metrics["top1"].n == 19
    with pytest.raises(UserError, match="no sound"):
        evaluate(Parrot(), spoken(good, (1, "off", 1, None)), ["transcription"])


def test_what_it_needs():
    source = spoken((0, "on", 1, (0, "on")))
    assert missing_in_source("transcription", source) is None
    assert missing_in_model("transcription", Parrot()) is None
    assert missing_in_model("transcription", object()) == (
        "a object writes no words of sounds: train one with the method transcription or coconut"
    )
    with pytest.raises(UserError, match="both a label and a text"):
        evaluate(Parrot(), spoken((-1, "on", 1, (0, "on"))), ["transcription"])
    assert np.isfinite(evaluate(Parrot(), source, ["transcription"])["transcription"]["wer"])


def test_what_is_to_be_written_and_what_counts_as_words():
    """Begin, class, words; class, words, end; nothing of what a longer text beside it pads. Words are neither of the
    ends nor padding."""
    torch.manual_seed(0)
    texts = ["lights on", "turn the lights off now"]
    model = sound_transcriber(tokenizer=train_tokenizer(texts, 300), classes=2, width=16, layers=1, decoder_layers=1)
    tokens, ids = model.tokenize(texts), model.tokenizer
    before, following = model.sequences(tokens, torch.tensor([1, 0]))
    words = [ids(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert following[0].tolist() == [
        model.words + 1, *words[0], ids.sep_token_id, *[-100] * (len(words[1]) - len(words[0]))
    ]  # fmt: skip
    assert following[1].tolist() == [model.words, *words[1], ids.sep_token_id]
    assert before[1].tolist() == [ids.cls_token_id, model.words, *words[1]]
    embedded, mask = model.embed(tokens)
    assert mask.sum(1).tolist() == [len(words[0]), len(words[1])]
    assert mask[0, 1 : 1 + len(words[0])].all()
    expected = model.text_projection(embedded[1, 1:-1].mean(0))
    torch.testing.assert_close(model.encode_text(tokens)[1], expected)
    states, heard = torch.randn(2, 6, 16), torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    logits = model.eval().decode(states, heard, before)
    states[1, 4:] = 9.0  # padding of the sound
    torch.testing.assert_close(model.decode(states, heard, before), logits)


@pytest.fixture(scope="module")
def writer():
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a b c d", "b a"], 300)
    model = sound_transcriber(
        tokenizer=tokenizer, classes=2, width=16, layers=1, decoder_layers=1, max_length=3, max_seconds=1
    ).eval()
    torch.nn.init.normal_(model.output.weight, std=1.0)  # so that the likeliest beginning is not always the best
    chance = np.random.default_rng(0)
    return model, model.preprocess_audio([(chance.normal(0, 0.1, 3000 + 400 * i), 16000) for i in range(6)])


def likeliest(model, audio):
    """Of each sound, what is likeliest of all classes with all two words, one after the other."""
    states, mask = model.encode(audio)
    end, words = model.tokenizer.sep_token_id, model.words
    best = [(-np.inf, ())] * len(states)
    with torch.no_grad():
        for label in range(model.classes):
            for first in range(words):
                ids = torch.tensor([[model.tokenizer.cls_token_id, words + label, first]]).expand(len(states), -1)
                logits = model.decode(states, mask, ids)
                so_far = logits[:, 0, words:].log_softmax(-1)[:, label].double()
                so_far = so_far + logits[:, 1, :words].log_softmax(-1)[:, first]
                last, word = logits[:, 2, :words].log_softmax(-1).max(-1)
                written = [(label, first)] * len(states) if first == end else [(label, first, w) for w in word.tolist()]
                scores = (so_far if first == end else so_far + last).tolist()
                best = [max(*each) for each in zip(best, zip(scores, written, strict=True), strict=True)]
    return [written for _, written in best]


def test_wide_beams_find_the_likeliest_of_all(writer):
    model, audio = writer
    heard = model.transcribe(audio, beams=3 * model.words)
    best = likeliest(model, audio)
    texts = model.tokenizer.batch_decode([list(each[1:]) for each in best], skip_special_tokens=True)
    assert [(each.label, each.text) for each in heard] == [(b[0], t.strip()) for b, t in zip(best, texts, strict=True)]
    assert heard != model.transcribe(audio), "another start: greedy must miss some of these"


def test_one_beam_is_greedy(writer):
    model, audio = writer
    states, mask = model.encode(audio)
    label = model.decode(states, mask, torch.full((6, 1), model.tokenizer.cls_token_id))[:, 0, model.words :].argmax(-1)
    assert [each.label for each in model.transcribe(audio, beams=1)] == label.tolist()
    alone = [model.transcribe({name: value[i : i + 1] for name, value in audio.items()}, beams=4)[0] for i in range(6)]
    assert alone == model.transcribe(audio, beams=4), "what lies beside a sound changes nothing"
    with pytest.raises(UserError, match="beams is 0"):
        model.transcribe(audio, beams=0)
