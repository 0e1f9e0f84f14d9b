"""A frozen image-text model with a learned prompt: it embeds pictures, and class names inside the prompt (CoOp, arXiv
2109.01134; CoCoOp, arXiv 2203.05557; MaPLe, arXiv 2210.03117)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar import lookup
from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.dual.around_pair import AroundPair
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.dual.open_clip import OpenClipEncoder
from nearfar.models.hub import push_to_hub
from nearfar.models.mixed_inputs import encode
from nearfar.models.prompts.deep_prompts import DeepPrompts
from nearfar.models.prompts.meta_net import MetaNet
from nearfar.models.prompts.prompt_layout import PLACES, Position, PromptLayout, without_places
from nearfar.models.prompts.token_vectors import embedding_layer, vectors_at
from nearfar.models.towers.tokens import Tokens
from nearfar.models.weight_files import load_part, write_weights

Kind = Literal["coop", "cocoop", "maple"]
KINDS = ("coop", "cocoop", "maple")
FILE = "prompt.safetensors"
AT_ONCE = 4096
"""Texts that go through the tower together where each picture has its own."""


class PromptedEncoder(AroundPair):
    """A dual encoder that is frozen, and n learned vectors around each class name that its text tower reads.

    `tokenize` takes class names, and puts each into the prompt; so `encode_text(tokenize(names))` are the learned
    classifier's weights for any names, and everything that takes class names takes this model with the template `{}`.
    Tokens of plain texts, as loaders make them of captions, are embedded without the prompt, as the pair does.
    `nearfar.models.prompted_encoder` makes one.

    Args:
        pair: the dual encoder, or an open_clip model as `nearfar.load` opens it. It becomes part of this model.
        kind: "coop": the vectors are the same for all pictures. "cocoop": a small net adds to all of them a vector that
            it makes of each picture, so that each picture has texts of its own (`class_cosines`). "maple": vectors in
            every layer, of both towers (`nearfar.models.prompts.DeepPrompts`).
        context: n, the number of vectors.
        position: of the name: after them ("end"), in their "middle", or before them ("front").
        ending: what ends the prompt.
        class_names: with "coop", vectors of its own for each of these classes, and for no others.
        hidden: width of the small net of "cocoop"; by default a sixteenth of the embedding's (paper).
        depth: layers that "maple" prompts (paper: 9).

    Attributes:
        context: the vectors `[n, W]`, or `[C, n, W]` with `class_names`.
        base: names of the classes that it was trained on, for measures of base and of new classes.
        embed_dim, image_size, mean, std, tokenizer, temperature: the pair's.

    Raises:
        UserError: a kind, position or number that there is not; towers that "maple" cannot be put into.
    """

    encode = encode
    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("pair", "prompt")
    MODELS_WITHIN: ClassVar[dict[str, type]] = {"pair": DualEncoder}

    pair: Any

    def __init__(
        self,
        pair: Any,
        *,
        kind: Kind = "coop",
        context: int = 16,
        position: Position = "end",
        ending: str = ".",
        class_names: Sequence[str] | None = None,
        hidden: int | None = None,
        depth: int = 9,
        base: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        lookup.check("kind of prompt", [kind], KINDS)
        if not isinstance(context, int) or context < 1:
            raise UserError(f"context is {context!r}: learn at least one vector")
        if class_names is not None and kind != "coop":
            raise UserError(f"class_names gives each class vectors of its own, which {kind} has not: choose coop")
        self.pair = pair.requires_grad_(False)
        layer = embedding_layer(pair)
        self.layout = PromptLayout(pair.tokenize, context, position=position, ending=ending, longest=longest_of(pair))
        self.class_names = None if class_names is None else tuple(map(_plain, class_names))
        if self.class_names is not None and len(set(self.class_names)) < len(self.class_names):
            raise UserError("class_names holds a name twice: give each class its own")
        self.kind, self.hidden, self.base = kind, hidden, None if base is None else tuple(base)
        shape = (context, layer.weight.shape[1])
        of_classes = () if self.class_names is None else (len(self.class_names),)
        self.context = nn.Parameter(torch.empty(*of_classes, *shape).normal_(std=0.02))
        self.meta = MetaNet(pair.embed_dim, shape[1], hidden) if kind == "cocoop" else None
        self.deep = DeepPrompts(pair, context, depth) if kind == "maple" else None
        if self.deep is not None:
            self.deep.check(pair, self.context)
        self.train(self.training)

    @property
    def image(self) -> Any:
        """The image tower, which is frozen: its summaries can be computed ahead (`nearfar.training.precompute`)."""
        return self.pair.image

    @property
    def frozen(self) -> tuple[str, ...]:
        """What gives the same whatever the prompt is: with "maple" nothing."""
        return () if self.deep is not None else ("image", "image_projection")

    @property
    def temperature(self) -> float | None:
        """The pair's divisor of similarities; None where there is none."""
        return self.pair.temperature

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        self.pair.temperature = value

    @property
    def image_size(self) -> int:
        return self.pair.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        return self.pair.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.pair.std

    @property
    def max_length(self) -> int:
        return longest_of(self.pair)

    @property
    def device(self) -> torch.device:
        return self.context.device

    def preprocess(self, pictures: Any) -> Tensor:
        """Pixels `[B, 3, image_size, image_size]` float32 of a list of PIL pictures."""
        return self.pair.preprocess(pictures)

    def start_from(self, words: str) -> Self:
        """Let the vectors begin as the embeddings of the first words of a text; until they are trained, the model is
        the pair with the template `words NAME.`

        Raises:
            UserError: the text has fewer tokens than there are vectors.
        """
        ids = self.layout.words(words)
        if len(ids) < self.layout.count:
            raise UserError(
                f"{words!r} has {len(ids)} tokens for {self.layout.count} vectors: write more words, or learn fewer"
            )
        layer = embedding_layer(self.pair)
        with torch.no_grad():
            start = layer(torch.tensor(ids[: self.layout.count], device=layer.weight.device))
            self.context.copy_(start.expand_as(self.context))
        return self

    def tokenize(self, names: Sequence[str]) -> Tokens:
        """Class names in the prompt: `input_ids` and `attention_mask` `[C, L]` int64, and `places` `[C, n]` int64 of
        the vectors. Underscores in names become spaces. Names that are too long are cut.

        Raises:
            UserError: one name in the place of a list, or one without vectors of its own.
        """
        if isinstance(names, str):
            raise UserError("tokenize takes a list of names, not one name: write [name]")
        plain = [_plain(name) for name in names]
        tokens = self.layout(plain)
        if self.class_names is not None:
            number = {name: i for i, name in enumerate(self.class_names)}
            if unknown := [name for name in plain if name not in number]:
                raise UserError(
                    f"{unknown[0]!r} has no vectors of its own: this prompt learned one for each of its "
                    f"{len(number)} classes. Learn one for all (class_names left out) to name other classes"
                )
            tokens["of_class"] = torch.tensor([number[name] for name in plain], dtype=torch.long)
        return tokens

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """Embeddings `[C, embed_dim]`, in the weights' dtype, of tokens of names, in the prompt; of tokens without
        `places`, `[B, L]` int64, as the pair embeds them. With "cocoop" they are adapted to no picture. Of unit length
        with `normalize=True`."""
        if PLACES not in tokens:
            return self.pair.encode_text(tokens, normalize)
        vectors: Tensor = self.context
        if self.class_names is not None:
            vectors = vectors[tokens["of_class"].to(vectors.device)]
        embedding = self._read(tokens, vectors)
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def class_texts(self, tokens: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Unit embeddings of names: `[C, D]` for all pictures, or with "cocoop" `[N, C, D]`, those of each picture, of
        `images` `[N, D]` floating point, the pictures' embeddings.

        With "cocoop" N times C texts go through the tower, so many at a time.
        """
        if self.meta is None:
            return self.encode_text(tokens, normalize=True)
        count = len(tokens["input_ids"])
        shift = self.meta(F.normalize(images, dim=-1).to(self.context))
        parts = []
        for own in shift.split(max(1, AT_ONCE // max(1, count))):
            repeated = {name: value.repeat(len(own), 1) for name, value in tokens.items()}
            vectors = (self.context + own[:, None]).repeat_interleave(count, dim=0)
            parts.append(self._read(repeated, vectors).unflatten(0, (len(own), count)))
        return F.normalize(torch.cat(parts), dim=-1)

    def class_cosines(self, images: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """Cosines `[N, C]` of embeddings `images` `[N, D]`, floating point, with names inside the prompt."""
        texts = self.class_texts(tokens, images)
        unit = F.normalize(images, dim=-1).to(texts)
        return unit @ texts.T if texts.ndim == 2 else torch.einsum("nd,ncd->nc", unit, texts)

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]`, in the weights' dtype, of pixels `[B, 3, H, W]` float32; but for "maple" also of
        summaries `[B, W]` that the image tower gave before."""
        if self.deep is None:
            return self.pair.encode_image(pixels, normalize=normalize)
        if pixels.ndim != 4:
            raise UserError(
                "prompts in both towers (maple) change what the image tower makes of a picture: train on pictures, not "
                "on what was computed ahead"
            )
        with self.deep.in_image(self.pair, self.context):
            return self.pair.encode_image(pixels, normalize=normalize)

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """`class_cosines` `[B, C]` of pixels `[B, 3, H, W]` float32 and of tokens of C names `[C, L]` int64."""
        return self.class_cosines(self.encode_image(pixels), tokens)

    def prompt(self) -> dict[str, Tensor]:
        """The learned tensors, by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("pair.")}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.pair.eval()  # what is frozen has no dropout
        return self

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {"pair": self.pair.config(), "prompt": self.made_of()}

    def made_of(self) -> dict[str, Any]:
        """The prompt's settings, as plain data."""
        names = None if self.class_names is None else list(self.class_names)
        return {
            "kind": self.kind,
            "context": self.layout.count,
            "position": self.layout.position,
            "ending": self.layout.ending,
            "class_names": names,
            "hidden": self.hidden,
            "depth": 9 if self.deep is None else self.deep.depth,
            "base": None if self.base is None else list(self.base),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        return cls(DualEncoder.from_config(config["pair"], tokenizer), **config["prompt"])

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training). Around an open_clip
        model, which is not ours to write, it is the prompt alone, as by `save_prompt`.
        """
        if isinstance(self.pair, OpenClipEncoder):
            return self.save_prompt(folder)
        return model_folder.write(folder, self, state_dict or self.state_dict())

    def save_prompt(self, folder: str | Path) -> Path:
        """Write the learned tensors alone to `prompt.safetensors`: a few kilobytes beside the model's hundred
        megabytes."""
        from nearfar import files

        folder = files.folder(Path(folder))
        write_weights(folder / FILE, self.prompt())
        return folder

    def load_prompt(self, folder: str | Path) -> Self:
        """Take the learned tensors that `save_prompt` wrote of a prompt with the same settings.

        Raises:
            UserError: the file is missing or damaged, or is of another prompt.
        """
        load_part(self, Path(folder) / FILE, self.prompt())
        return self

    def _read(self, tokens: Mapping[str, Tensor], vectors: Tensor) -> Tensor:
        """Embeddings of tokens with `vectors` `[n, W]` or `[B, n, W]` at their places."""
        with vectors_at(embedding_layer(self.pair), vectors, tokens[PLACES]):
            if self.deep is None:
                return self.pair.encode_text(without_places(tokens))
            with self.deep.in_text(self.pair, tokens[PLACES]):
                return self.pair.encode_text(without_places(tokens))


def longest_of(pair: Any) -> int:
    """Tokens that the texts of a pair may have."""
    return int(getattr(pair, "max_length", None) or pair.tokenizer.model_max_length)


def _plain(name: str) -> str:
    return name.replace("_", " ")
