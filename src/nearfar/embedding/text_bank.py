"""Unit embeddings of texts, each different text encoded once, kept in memory and where that is wished on disk."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nearfar import console, files
from nearfar.embedding.embed_source import embed_texts

BLOCK = 1024
"""Texts that are encoded, and written, at a time: what a kill may cost."""
PROBE = "a red apple and a blue car under a green tree"
"""A text by whose embedding a model is known: what another model made is not taken."""
SAME = 1e-3
"""Greatest 1 - cosine of the probe's embeddings by one model."""


class TextBank:
    """Embeddings of texts by a model.

    Args:
        encoder: anything with `encode_text` and `tokenize`.
        folder: keeps what was encoded, in files of a block each; what another model left there is deleted.
        batch_size: texts at a time.

    Attributes:
        encoded: how many texts went through the model.

    >>> class Letters:
    ...     def tokenize(self, texts): return torch.tensor([[len(text), text.count("a")] for text in texts])
    ...     def encode_text(self, tokens): return tokens.float()
    >>> bank = TextBank(Letters())
    >>> bank(["aaaa", "bbbb", "aaaa"])
    tensor([[0.7071, 0.7071],
            [1.0000, 0.0000],
            [0.7071, 0.7071]])
    >>> bank.encoded
    2
    """

    def __init__(self, encoder: Any, *, folder: Path | None = None, batch_size: int = 64) -> None:
        self.encoder, self.folder, self.batch_size = encoder, folder, batch_size
        self.encoded = 0
        self._place: dict[bytes, int] = {}
        self._vectors = torch.zeros(0, 0)
        self._parts = 0
        if folder is not None:
            self._open(files.folder(folder))

    def __len__(self) -> int:
        return len(self._place)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings `[len(texts), D]` float32, on the CPU."""
        keys = [_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._place}
        # Shortest first, as they are batched: a run that goes on after a kill then has the same blocks, and bits.
        missing = sorted(new.values(), key=lambda text: (len(text), text))
        with console.progress("encoding texts", len(missing)) as step:
            for start in range(0, len(missing), BLOCK):
                part = missing[start : start + BLOCK]
                self._keep(part, embed_texts(self.encoder, part, batch_size=self.batch_size, progress=False))
                step(len(part))
        return self._vectors[[self._place[key] for key in keys]]

    def _keep(self, texts: Sequence[str], vectors: Tensor) -> None:
        self.encoded += len(texts)
        keys = [_key(text) for text in texts]
        if self.folder is not None:
            from safetensors.torch import save_file

            path = self.folder / f"{self._parts:05d}.safetensors"
            held = {"keys": torch.tensor([list(key) for key in keys], dtype=torch.uint8), "vectors": vectors}
            with files.writing(path), files.whole(path) as temporary:
                save_file({**held, "probe": self._probe()}, temporary)
        self._take(keys, vectors)

    def _take(self, keys: Sequence[bytes], vectors: Tensor) -> None:
        self._place |= {key: len(self._vectors) + i for i, key in enumerate(keys)}
        self._vectors = torch.cat([self._vectors, vectors]) if len(self._vectors) else vectors
        self._parts += 1

    def _open(self, folder: Path) -> None:
        from safetensors.torch import load_file

        files.remove_leftovers(folder)
        paths = sorted(folder.glob("*.safetensors"))
        probe = self._probe() if paths else None
        for path in paths:
            held = load_file(path)
            same = probe is not None and held["probe"].shape == probe.shape
            if probe is not None and same and float((held["probe"] * probe).sum()) > 1 - SAME:
                self._take([bytes(key) for key in held["keys"].tolist()], held["vectors"])
            else:
                path.unlink()

    def _probe(self) -> Tensor:
        return embed_texts(self.encoder, [PROBE], progress=False)


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
