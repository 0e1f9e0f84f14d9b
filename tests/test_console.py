"""One progress bar: all long work shows it on the error stream of a terminal, within a command or on request."""

import io
import sys

import pytest
import torch
from PIL import Image

from nearfar import console
from nearfar.data import Records
from nearfar.data.mining.filters import AltTextFilter
from nearfar.data.mining.hard_captions import with_hard_captions
from nearfar.data.mining.hard_images import mine_hard_images
from nearfar.data.sources.skipped import Skipped
from nearfar.embedding.embed_source import embed, embed_images, embed_texts
from nearfar.evaluation.measures.retrieval_ranks import rank
from nearfar.evaluation.protocols.picture_batches import read_pictures
from nearfar.evaluation.protocols.reranked_retrieval import reranked_retrieval
from nearfar.reproductions.shared.running import each_done
from nearfar.search import build
from nearfar.training.loop.validation import mean_loss


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_terminal(monkeypatch):
    """A function, as pytest changes the streams between a fixture and its test."""

    def opened():
        monkeypatch.setattr(sys, "stderr", stream := Terminal())
        monkeypatch.setenv("COLUMNS", "140")
        return stream

    return opened


class Encoder(torch.nn.Module):
    """Colours of pictures, letters of texts."""

    embed_dim, image_size = 3, 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3))

    def preprocess(self, images):
        return torch.stack([torch.tensor(image.getpixel((0, 0))) / 255.0 for image in images])

    def tokenize(self, texts):
        return {"input_ids": torch.tensor([[text.count(letter) for letter in "abe"] for text in texts])}

    def encode_image(self, pixels):
        return pixels * self.weight

    def encode_text(self, tokens):
        return tokens["input_ids"].float() * self.weight


def pictures():
    colours = ["red", "lime", "blue", "yellow"]
    texts = ["a red bird", "a big green tree", "the blue sea", "a yellow bee"]
    rows = [{"image": Image.new("RGB", (8, 8), c), "text": t} for c, t in zip(colours, texts, strict=True)]
    return Records(rows, name="colours")


def embedded():
    return embed(Encoder(), pictures(), progress=False)


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss": self.weight.sum()}


def read():
    return list(read_pictures(pictures(), [0, 2], near=None, batch_size=2, skipped=Skipped(), max_skipped=0.1))


def swapped():
    return with_hard_captions(Records([{"text": "a small dog chases a black cat"}], name="pets"))


def reranked():
    return reranked_retrieval(embedded(), lambda similarity, *rest: similarity)


WORK = {
    "embedding images": lambda folder: embed(Encoder(), pictures()),
    "embedding captions": lambda folder: embed_texts(Encoder(), ["a bee"]),
    "embedding images, by batch": lambda folder: embed_images(Encoder(), [Image.new("RGB", (8, 8), "red")]),
    "indexing colours": lambda folder: build(Encoder(), pictures(), folder / "index"),
    "filtering colours": lambda folder: AltTextFilter(min_side=1, min_words=1)(pictures()),
    "counting the words of colours": lambda folder: AltTextFilter(min_side=1, min_words=1)(pictures()),
    "swapping words of pets": lambda folder: swapped(),
    "finding hard images": lambda folder: mine_hard_images(torch.eye(4), k=2),
    "ranking": lambda folder: rank(torch.eye(3), torch.eye(3), torch.arange(3), torch.arange(3)),
    "re-ranking text_to_image": lambda folder: reranked(),
    "colours: pictures": lambda folder: read(),
    "validation": lambda folder: mean_loss(Loss(), [{"index": torch.arange(2)}]),
    "runs": lambda folder: list(each_done(abs, [(1,), (-2,)], workers=1, threads=1)),
}


@pytest.mark.parametrize("description", WORK)
def test_long_work_shows_the_bar_within_a_command(description, open_terminal, tmp_path):
    terminal = open_terminal()
    WORK[description](tmp_path / "a")
    assert description not in terminal.getvalue(), "a library shows nothing without a request"
    with console.showing():
        WORK[description](tmp_path / "b")
    assert description in terminal.getvalue()


def test_no_bar_where_the_error_stream_is_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with console.showing(), console.bar("reading", 3, True) as bar:
        bar.advance()
        assert not bar.is_shown
    assert stream.getvalue() == ""


def test_work_within_work_shares_the_display(open_terminal):
    terminal = open_terminal()
    with console.bar("outer", 2, True) as outer:
        for item in console.track("ab", "inner", True):
            outer.advance()
            assert item in "ab"
        assert outer.is_shown
    with console.bar("later", 7, True) as later:
        later.move(3, "loss 1.5")
    shown = terminal.getvalue()
    assert all(words in shown for words in ("outer", "inner", "later", "3/7", "loss 1.5"))


def test_a_block_may_hide_what_a_command_shows(open_terminal):
    terminal = open_terminal()
    with console.showing(), console.showing(False):
        list(console.track("ab", "hidden"))
    with console.showing():
        list(console.track("ab", "refused", show=False))
    assert terminal.getvalue() == ""
