"""`nearfar write --out` that was stopped goes on, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image

from nearfar import cli
from nearfar.data import train_tokenizer
from nearfar.models import vision_language_model
from nearfar.models.vlm.vision_language_model import VisionLanguageModel

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 4}
VIT |= {"intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def folder(tmp_path):
    """A saved model, seven pictures with questions, one of the pictures broken."""
    torch.manual_seed(0)
    words = train_tokenizer(["a red car", "is it a fish?"] * 3, 300)
    model = vision_language_model(VIT, "tiny", tokenizer=words, image_size=16, max_length=12)
    model.save_pretrained(tmp_path / "model")
    draw = torch.Generator().manual_seed(1)
    for number in range(8):
        shades = torch.randint(0, 256, (18, 20, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(shades.numpy()).save(tmp_path / f"p{number}.png")
    (tmp_path / "p2.png").write_bytes(b"no picture")
    rows = [{"image": f"p{number}.png", "text": f"is it {number}?"} for number in range(8)]
    (tmp_path / "qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def words_for(folder, out, *more):
    """Drawn tokens, two pictures at a time: what a batch draws must not depend on where a run was stopped."""
    options = ["--batch-size", "2", "--temperature", "3", "--max-skipped", "0.5", "--prompt", "{}"]
    return ["write", str(folder / "model"), str(folder / "qa.jsonl"), "--out", str(folder / out), *options, *more]


def stopped(folder, out, monkeypatch, *, after):
    """A run that ends in the batch after so many."""
    original = VisionLanguageModel.caption

    def caption(self, *args, **options):
        caption.calls += 1
        if caption.calls > after:
            raise KeyboardInterrupt
        return original(self, *args, **options)

    caption.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(VisionLanguageModel, "caption", caption)
        with pytest.raises(SystemExit) as stop:
            cli.main(words_for(folder, out))
    assert stop.value.code == 130


@pytest.mark.parametrize("after", [0, 1, 3])
def test_it_goes_on_and_writes_the_same(folder, monkeypatch, capsys, after):
    cli.main(words_for(folder, "whole.jsonl"))
    stopped(folder, "stopped.jsonl", monkeypatch, after=after)
    part = folder / "stopped.jsonl.part"
    assert not (folder / "stopped.jsonl").exists()
    assert len(part.read_text().splitlines()) == 1 + after
    with part.open("a") as file:
        file.write('{"read": 99, "rows": [{"ro')  # the line that it was at
    calls, original = [], VisionLanguageModel.caption
    monkeypatch.setattr(
        VisionLanguageModel, "caption", lambda self, *a, **k: calls.append(1) or original(self, *a, **k)
    )
    capsys.readouterr()
    cli.main(words_for(folder, "stopped.jsonl"))
    said = capsys.readouterr()
    assert (folder / "stopped.jsonl").read_text() == (folder / "whole.jsonl").read_text()
    assert (len(calls), part.exists()) == (4 - after, False)
    assert "7 texts written" in said.out
    assert "record 2" in said.err
    assert "begun afresh" not in said.err


def test_what_an_earlier_run_wrote_of_others_is_not_taken(folder, monkeypatch, capsys):
    cli.main(words_for(folder, "whole.jsonl", "--seed", "1"))
    stopped(folder, "out.jsonl", monkeypatch, after=2)
    cli.main(words_for(folder, "out.jsonl", "--seed", "1"))
    assert "is of other settings or pictures: begun afresh" in capsys.readouterr().err
    assert (folder / "out.jsonl").read_text() == (folder / "whole.jsonl").read_text()
    stopped(folder, "out.jsonl", monkeypatch, after=2)
    table = folder / "qa.jsonl"
    table.write_text(table.read_text().replace("is it 0?", "is it another?"))
    capsys.readouterr()
    cli.main(words_for(folder, "out.jsonl"))
    assert "begun afresh" in capsys.readouterr().err
    assert json.loads((folder / "out.jsonl").read_text().splitlines()[0])["prompt"] == "is it another?"


CODE = """
import sys, time
from nearfar import cli
from nearfar.models.vlm.vision_language_model import VisionLanguageModel
original = VisionLanguageModel.caption
def slow(self, *args, **options):
    time.sleep(0.3)
    return original(self, *args, **options)
VisionLanguageModel.caption = slow
cli.main(sys.argv[1:])
"""


def test_a_process_that_is_killed_leaves_what_it_wrote(folder):
    cli.main(words_for(folder, "whole.jsonl"))
    process = subprocess.Popen([sys.executable, "-c", CODE, *words_for(folder, "out.jsonl")])
    part, end = folder / "out.jsonl.part", time.monotonic() + 120
    while not (part.exists() and part.read_bytes().count(b"\n") >= 2) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = part.read_bytes().count(b"\n")
    assert 2 <= kept < 5
    cli.main(words_for(folder, "out.jsonl"))
    assert (folder / "out.jsonl").read_text() == (folder / "whole.jsonl").read_text()
