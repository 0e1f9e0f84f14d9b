"""What contrastive search returns with `return_dict_in_generate=True`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput


@dataclass
class ContrastiveSearchOutput(GenerateDecoderOnlyOutput):
    """transformers' output, and for each new token `[B, T]` the model's confidence in it and the degeneration penalty
    it paid, both NaN after a sequence has ended."""

    confidences: Tensor | None = None
    penalties: Tensor | None = None


@dataclass
class ContrastiveSearchEncoderDecoderOutput(GenerateEncoderDecoderOutput):
    """The same for encoder-decoder models."""

    confidences: Tensor | None = None
    penalties: Tensor | None = None
