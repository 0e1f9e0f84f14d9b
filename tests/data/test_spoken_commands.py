"""Commands spoken by flite, where it is installed, and what is said where it is not."""

import shutil

import pytest

from nearfar.data import open_source, read_sound
from nearfar.data.sound import flite_speech
from nearfar.data.sound.command_grammar import INTENTS, sentences
from nearfar.data.sound.spoken_commands import VOICES, _Command, commands
from nearfar.errors import UserError

needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite: apt install flite")
pytest.importorskip("soundfile", reason="needs soundfile: pip install 'nearfar[speech]'")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    cache = tmp_path_factory.mktemp("commands")
    return commands("train", each=1, cache=cache), cache


@needs_flite
def test_voices_of_the_splits_are_apart_and_there():
    train, val, test = (set(VOICES[name]) for name in ("train", "val", "test"))
    assert not train & val
    assert not (train | val) & test
    assert train | val | test <= set(flite_speech.voices())


@needs_flite
def test_each_intent_is_spoken_and_kept(spoken):
    source, cache = spoken
    assert source.classes == list(INTENTS)
    assert source.column("label") == list(range(len(INTENTS)))
    for record in source:
        assert record["text"] in sentences()[record["intent"]]
        assert record["voice"] in VOICES["train"]
        sound = read_sound(record["audio"])
        assert sound.rate == 16000
        assert 0.5 < sound.seconds < 5
        assert not sound.is_silent
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = commands("train", each=1, cache=cache)
    assert [*again] == [*source]
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files, "made once"


@needs_flite
def test_the_same_arguments_make_the_same_sounds(spoken, tmp_path):
    source, _ = spoken
    first = source.plan[0]
    assert first.wave() == first.wave()
    assert commands("train", each=1, cache=tmp_path, voices=["slt"])[0]["voice"] == "slt"


@needs_flite
def test_a_voice_that_flite_lacks_is_refused():
    """flite itself takes any name, and speaks with another voice."""
    with pytest.raises(UserError, match=r"flite has no voice 'nobody': choose one of .*slt"):
        flite_speech.speak("a word", "nobody")
    with pytest.raises(UserError, match="holds no words"):
        flite_speech.speak(" ... ", "slt")
    with pytest.raises(UserError, match="stretch=9"):
        flite_speech.speak("a word", "slt", stretch=9)
    samples, rate = flite_speech.speak("a word", "kal")
    assert rate == 8000
    assert len(samples) > 2000


def test_without_flite_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(flite_speech, "TOOL", "no-such-tool")
    flite_speech.voices.cache_clear()
    with pytest.raises(UserError, match="flite, which is not installed: `apt install flite`"):
        open_source("world/commands", each=1, cache=tmp_path)
    flite_speech.voices.cache_clear()
    with pytest.raises(UserError, match="split"):
        open_source("world/commands", split="dev", cache=tmp_path)


def test_splits_are_drawn_apart():
    """Speeds and pitches of one split are not those of another; the same split is drawn the same."""

    def drawn(split):
        plan = [_Command(split, number, None, 4, 0.0, 0) for number in range(36)]
        return [(one.stretch, one.noise_seed) for one in plan]

    train, val, test = (drawn(split) for split in ("train", "val", "test"))
    assert train == drawn("train")
    assert not {*train} & {*test}
    assert not {*train} & {*val}
    assert not {*val} & {*test}


@needs_flite
def test_a_voice_of_8000_samples_a_second_speaks_as_long(tmp_path):
    [first, *_] = commands("train", each=1, voices=["kal"], noise=0.0, cache=tmp_path).plan
    samples, rate = flite_speech.speak(first.text, "kal", stretch=first.stretch, pitch=first.pitch)
    sound = read_sound(first.wave())
    assert (rate, sound.rate) == (8000, 16000)
    assert sound.seconds == pytest.approx(len(samples) / 8000, abs=1e-3)
