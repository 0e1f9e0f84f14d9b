"""VG-Bert's third stage as a model (arXiv 2111.07180): phrases find their things, things have classes and relations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from nearfar.data.fields.field import Field
from nearfar.data.fields.phrase_field import PhraseField
from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.dual.around_pair import AroundPair
from nearfar.models.grounded.cross_attention import CrossModalAttention
from nearfar.models.grounded.grounded_encoder import GroundedEncoder, grounded_encoder
from nearfar.models.grounded.relation_operator import OPERATORS
from nearfar.models.hub import push_to_hub
from nearfar.models.towers.tokens import Tokens

Pooling = Literal["mean", "padded"]


class RelationEncoder(AroundPair):
    """Phrases attend to the cells of a picture; of what they find, the class of each thing is told, and the relation of
    each two. `nearfar.models.relation_encoder` makes one.

    Args:
        pair: the grounded encoder, which becomes part of this model.
        relations: their names; label 0 is no relation, label 1 the first of them.
        objects: the names of the things that are told apart; label 0 is none of them.
        relation_width: of the vectors that relations are between (paper: 32).
        operator: "bilinear" (paper), or "concat", a perceptron over both.
        operator_dropout, object_hidden, object_dropout: of relation operator and object classifier.
        heads: of the attention of phrases; by default one for each 64 numbers.
        pooling: of a phrase's tokens, "mean" of the real ones, or "padded", their sum divided by `phrase_length`, as
            in the released code: then a vector's length says how many tokens it is of.
        most_objects, phrase_length: of a picture's phrases, and of a phrase's tokens.

    Raises:
        UserError: no relations, names twice, or a setting out of its range.
    """

    push_to_hub = push_to_hub

    pair: GroundedEncoder

    NEEDED: ClassVar[tuple[str, ...]] = ("pair", "relational")
    """What its saved config must have."""

    MODELS_WITHIN: ClassVar[dict[str, type]] = {"pair": GroundedEncoder}
    """Which of these are models themselves."""

    def __init__(
        self,
        pair: GroundedEncoder,
        *,
        relations: Sequence[str],
        objects: Sequence[str],
        relation_width: int = 32,
        operator: str = "bilinear",
        operator_dropout: float = 0.1,
        object_hidden: int = 256,
        object_dropout: float = 0.1,
        heads: int | None = None,
        pooling: Pooling = "mean",
        most_objects: int = 32,
        phrase_length: int = 10,
    ) -> None:
        super().__init__()
        for name, names in (("relations", relations), ("objects", objects)):
            if isinstance(names, str) or not names or len(set(names)) < len(names):
                raise UserError(f"{name} must be names, each once: {list(names)[:5]}")
        if operator not in OPERATORS:
            raise UserError(f"operator={operator!r}: choose one of {', '.join(OPERATORS)}")
        if pooling not in ("mean", "padded"):
            raise UserError(f"pooling={pooling!r}: choose mean or padded")
        if not 0 < phrase_length <= pair.text.longest:
            raise UserError(f"phrase_length={phrase_length}: the text tower takes 1 to {pair.text.longest} tokens")
        self.made_of: dict[str, Any] = {
            "relations": list(relations),
            "objects": list(objects),
            "relation_width": relation_width,
            "operator": operator,
            "operator_dropout": operator_dropout,
            "object_hidden": object_hidden,
            "object_dropout": object_dropout,
            "heads": heads,
            "pooling": pooling,
            "most_objects": most_objects,
            "phrase_length": phrase_length,
        }
        width = pair.text.width
        self.pair = pair
        self.relations, self.objects = tuple(relations), tuple(objects)
        self.pooling, self.most_objects, self.phrase_length = pooling, most_objects, phrase_length
        self.attention = CrossModalAttention(width, heads)
        self.down = nn.Linear(width, relation_width)
        self.relation: Any = OPERATORS[operator](len(relations) + 1, relation_width, dropout=operator_dropout)
        self.classify = nn.Sequential(
            nn.Linear(width, object_hidden),
            nn.ReLU(),
            nn.Dropout(object_dropout),
            nn.Linear(object_hidden, len(objects) + 1),
        )

    @property
    def embed_dim(self) -> int:
        """Width of the vectors of words, the language stream's."""
        return self.pair.text.width

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long."""
        return self.pair.tokenize(texts)

    def fields(self, training: bool) -> list[Field]:
        """What batches for it hold beside pictures."""
        return [
            PhraseField(
                self.tokenizer,
                relations=self.relations,
                objects=self.objects,
                most_objects=self.most_objects,
                phrase_length=self.phrase_length,
            )
        ]

    def without_captions(self) -> Self:
        """Take the gradient from the projections into the space of pictures and captions, which relations do not
        use: unused parameters stop distributed training."""
        self.pair.freeze("image_projection", "text_projection")
        return self

    def encode_phrases(self, tokens: Mapping[str, Tensor]) -> Tensor:
        """The language stream's vectors `[..., W]` of phrases, tokens `[..., L]` int64, in the weights' dtype. An empty
        phrase, of padding alone, has zeros."""
        ids, mask = (tokens[name].to(self.device) for name in ("input_ids", "attention_mask"))
        real = mask.any(-1)
        states = self.pair.word_states({"input_ids": ids[real], "attention_mask": mask[real]})
        weight = mask[real][..., None].to(states)
        count = weight.sum(1) if self.pooling == "mean" else float(self.phrase_length)
        pooled = states.new_zeros(*real.shape, states.shape[-1])
        pooled[real] = (states * weight).sum(1) / count
        return pooled

    def ground(self, pixels: Tensor, phrases: Mapping[str, Tensor]) -> Tensor:
        """What each phrase finds: `[B, N, W]` of pixels `[B, 3, S, S]` float32 and phrases, tokens `[B, N, L]` int64,
        in the weights' dtype."""
        return self.attention(self.encode_phrases(phrases), self.pair.visual_stream(pixels))

    def object_logits(self, grounded: Tensor) -> Tensor:
        """Logits `[..., C]` of the classes of things `[..., W]`, floating point; channel 0 is none of `objects`."""
        return self.classify(grounded)

    def relation_scores(self, grounded: Tensor) -> Tensor:
        """Scores `[B, R, N, N]` of things `[B, N, W]`, floating point: (b, r, i, j) of relation r from i to j."""
        return self.relation(self.down(grounded))

    def encode_text(self, tokens: Mapping[str, Tensor], normalize: bool = False) -> Tensor:
        """The language stream alone: vectors `[B, W]` of tokens `[B, L]` int64, in the weights' dtype; of unit length
        with `normalize=True`. Pictures have none beside them: for those take `pair`."""
        vectors = self.encode_phrases(tokens)
        return nn.functional.normalize(vectors, dim=-1) if normalize else vectors

    def forward(self, pixels: Tensor, phrases: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the things `[B, N, C]` and scores of the relations `[B, R, N, N]`."""
        grounded = self.ground(pixels, phrases)
        return self.object_logits(grounded), self.relation_scores(grounded)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {"pair": self.pair.config(), "relational": self.made_of}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        return cls(GroundedEncoder.from_config(config["pair"], tokenizer), **config["relational"])

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


def relation_encoder(
    pair: Any = "tiny",
    *,
    relations: Sequence[str],
    objects: Sequence[str],
    relation_width: int = 32,
    operator: str = "bilinear",
    operator_dropout: float = 0.1,
    object_hidden: int = 256,
    object_dropout: float = 0.1,
    heads: int | None = None,
    pooling: Pooling = "mean",
    most_objects: int = 32,
    phrase_length: int = 10,
    tokenizer: Any = None,
    image_size: int | None = None,
) -> RelationEncoder:
    """A relation encoder around a copy of a grounded encoder (VG-Bert, arXiv 2111.07180).

    Args:
        pair: a grounded encoder, such as the second stage trained, a folder that `nearfar.load` opens as one, or what
            `nearfar.models.grounded_encoder` takes.
        relations, objects: the names of both, as the data have them.
        relation_width, operator, operator_dropout, object_hidden, object_dropout, heads, pooling, most_objects,
            phrase_length: see `RelationEncoder`.
        tokenizer: for a pair that is made from scratch.
        image_size: side of the pictures, where the pair's own is not to be taken.

    Raises:
        UserError: no such pair; a setting that it cannot have.

    >>> import torch
    >>> from nearfar.data import train_tokenizer
    >>> names = {"relations": ["left of", "right of"], "objects": ["cat", "dog"]}
    >>> model = relation_encoder("tiny", **names, tokenizer=train_tokenizer(["a red cat", "a dog"], 300)).eval()
    >>> phrases = model.tokenize(["a red cat", "a dog"])
    >>> things, scores = model(torch.rand(1, 3, 64, 64), {name: ids[None] for name, ids in phrases.items()})
    >>> things.shape, scores.shape
    (torch.Size([1, 2, 3]), torch.Size([1, 3, 2, 2]))
    """
    from nearfar import models

    opened = pair
    if isinstance(pair, str) and pair not in models.PRESETS:
        opened = models.load(pair)
    if isinstance(opened, GroundedEncoder):
        opened = deepcopy(opened) if opened is pair else opened
        if image_size is not None:
            opened.resize_images(image_size)
    elif isinstance(opened, Mapping):
        known = signature(grounded_encoder).parameters
        if unknown := [name for name in opened if name not in known]:
            raise UserError(f"pair has no setting {unknown[0]!r}: choose among {', '.join(known)}")
        of_pair = {"tokenizer": tokenizer, "image_size": image_size, **opened}
        opened = grounded_encoder(**of_pair)
    else:
        opened = grounded_encoder(opened, tokenizer=tokenizer, image_size=image_size)
    return RelationEncoder(
        opened,
        relations=relations,
        objects=objects,
        relation_width=relation_width,
        operator=operator,
        operator_dropout=operator_dropout,
        object_hidden=object_hidden,
        object_dropout=object_dropout,
        heads=heads,
        pooling=pooling,
        most_objects=most_objects,
        phrase_length=phrase_length,
    )
