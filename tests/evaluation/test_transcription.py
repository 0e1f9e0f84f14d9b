"""What a model writes of sounds beside what was said."""

import numpy as np
import pytest

from nearfar.data import Records
from nearfar.errors import UserError
from nearfar.evaluation import evaluate
from nearfar.evaluation.needs import missing_in_model, missing_in_source
from nearfar.models.sound.sound_transcriber import Transcript


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
