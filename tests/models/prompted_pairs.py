"""Small image-text models of several makes, for tests of learned prompts."""

from __future__ import annotations

from typing import Any

import torch

from nearfar.data.fields.text import train_tokenizer
from nearfar.models import create, load

NAMES = ["red fox", "small_dog", "boat"]
TEXTS = ["a photo of a red fox.", "a photo of a small dog.", "a photo of a boat.", "a picture of the sea"]
VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "patch_size": 8}
BERT = {"model_type": "bert", "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
BERT |= {"intermediate_size": 32, "max_position_embeddings": 40}


def spread(model: Any) -> Any:
    """Larger weights: else all embeddings of so small a model are nearly one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


def ours(**settings: Any) -> Any:
    """A ViT and a BERT, of nearfar."""
    torch.manual_seed(0)
    made: dict[str, Any] = {"image": VIT, "text": BERT, "image_size": 16, "embed_dim": 8, "temperature": 0.1}
    return spread(create(tokenizer=train_tokenizer(TEXTS * 2, 380), **(made | settings)))


def clip() -> Any:
    """A CLIP of transformers, whose text tower is causal, with another tokenizer than its own."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = train_tokenizer(TEXTS * 2, 380)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = small | {"vocab_size": 400, "max_position_embeddings": 40, "bos_token_id": 2, "eos_token_id": 3}
    vision = small | {"image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    return load(spread(model), tokenizer=tokenizer)


def siglip() -> Any:
    """A SigLIP of transformers, which reads its padding."""
    from transformers import SiglipConfig, SiglipModel

    tokenizer = train_tokenizer(TEXTS * 2, 380)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = small | {"vocab_size": 400, "max_position_embeddings": 24}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=small | {"image_size": 16, "patch_size": 8}))
    return load(spread(model), tokenizer=tokenizer)


class Words:
    """A tokenizer of open_clip's make: a fixed length, and the largest id at the end."""

    context_length = 24

    def __init__(self) -> None:
        self.words = train_tokenizer(TEXTS * 2, 380)

    def __call__(self, texts: list[str]) -> torch.Tensor:
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(rows, texts, strict=True):
            ids = [400, *self.words(text, add_special_tokens=False)["input_ids"]][: self.context_length - 1]
            row[: len(ids) + 1] = torch.tensor([*ids, 401])
        return rows


class OpenClip(torch.nn.Module):
    """What open_clip's CLIP has, as small as can be: its texts are read where the largest id stands."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = torch.nn.Embedding(402, 16)
        self.positional_embedding = torch.nn.Parameter(0.5 * torch.randn(24, 16))
        self.transformer = torch.nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.text_projection = torch.nn.Parameter(torch.randn(16, 8))
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        self.visual = torch.nn.Conv2d(3, 8, 16)
        self.visual.image_size = 16
        self.visual.image_mean, self.visual.image_std = (0.5,) * 3, (0.5,) * 3

    def encode_image(self, pixels: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        return self.visual(pixels).flatten(1)

    def encode_text(self, ids: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        states = self.transformer(self.token_embedding(ids) + self.positional_embedding)
        return states[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection


def open_clip() -> Any:
    """The same behind the interface of an encoder."""
    from nearfar.models.dual.open_clip import OpenClipEncoder

    torch.manual_seed(0)
    return OpenClipEncoder(OpenClip().eval(), tokenizer=Words(), preprocess=lambda picture: torch.zeros(3, 16, 16))


PAIRS = {"ours": ours, "clip": clip, "siglip": siglip, "open_clip": open_clip}
