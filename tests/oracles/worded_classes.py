"""A world where what texts are worth is known: an encoder that sums vectors of words, images that lie near one word of
their class, and descriptions of which some hold that word and some another class's."""

import hashlib

import torch

from nearfar.prompting import PromptLibrary

WIDTH = 32


def vector(word):
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


class Words:
    """Embeds a text as the sum of its words' vectors."""

    embed_dim = WIDTH
    temperature = 0.05

    def __init__(self):
        self.read = []

    def tokenize(self, texts):
        self.read += texts
        return torch.stack([sum(vector(word.strip(".,")) for word in text.split()) for text in texts])

    def encode_text(self, tokens, normalize=False):
        return tokens


def classes(n):
    return tuple(f"name{c}" for c in range(n))


def library(n, *, good=3, wrong=2):
    """Descriptions of each class: some with its own word, some with the next class's, some with a word of nothing."""
    own = {
        name: (
            *(f"it is word{c} and thing{c}x{i}" for i in range(good)),
            *(f"it is word{(c + 1 + i) % n} or other{c}x{i}" for i in range(wrong)),
            f"it is nothing{c}",
        )
        for c, name in enumerate(classes(n))
    }
    templates = ("a photo of a {}", "a bad {}", "this is {}", "nothing of {}", "{}")
    return PromptLibrary(classes(n), templates, descriptions=own)


def images(n, shots, *, seed=0, noise=4.0):
    """Features `[n * shots, D]` near `word` and the name of each class, and their labels."""
    label = torch.arange(n).repeat_interleave(shots)
    centre = torch.stack([vector(f"word{c}") + 0.5 * vector(f"name{c}") for c in range(n)])[label]
    draw = torch.Generator().manual_seed(seed)
    return centre + noise * torch.randn(centre.shape, generator=draw) / 4, label
