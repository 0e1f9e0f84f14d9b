"""A vision-language model of transformers as something that writes of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nearfar.errors import UserError, at_least
from nearfar.files import why
from nearfar.models import model_folder
from nearfar.modes import evaluating

if TYPE_CHECKING:
    from PIL.Image import Image


class TransformersCaptioner:
    """Writes of pictures by a model of transformers that takes pictures and text and gives text. It is never trained.

    Args:
        model: of transformers, with `generate`.
        processor: prepares pictures and prompts together; with a chat template a prompt is what a user says beside the
            picture, without one it stands behind the picture's token, where there is such a token.

    Attributes:
        image_size: None: the processor takes pictures of any size.
    """

    image_size: int | None = None

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        tokenizer = getattr(processor, "tokenizer", None)
        if tokenizer is not None:
            tokenizer.padding_side = "left"  # what is written follows the prompt at once
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token

    def preprocess(self, pictures: Sequence[Image]) -> list[Image]:
        """The pictures as they are: they meet the processor beside their prompts."""
        return list(pictures)

    def caption(
        self,
        pixels: Sequence[Image],
        prompt: str | Sequence[str] | None = None,
        *,
        max_tokens: int | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> list[str]:
        """What the model writes of each picture: the likeliest token at each place, to the end.

        Args:
            pixels: pictures, as `preprocess` gives them.
            prompt: what is asked, one for all, or one for each; None: nothing.
            max_tokens: so many at most (default: 64).
            seed: of drawn tokens; None: from PyTorch's own state.
            options: of `generate` in transformers.

        Raises:
            UserError: another number of prompts than pictures.
        """
        at_least(1, max_tokens=64 if max_tokens is None else max_tokens)
        prompts = [prompt or ""] * len(pixels) if prompt is None or isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(pixels):
            raise UserError(f"{len(prompts)} prompts for {len(pixels)} pictures: one for all, or one for each")
        if not prompts:
            return []
        inputs = self.processor(
            images=[[picture] for picture in pixels],
            text=[self._with_picture(each) for each in prompts],
            padding=True,
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        with evaluating(self.model), torch.random.fork_rng(enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            ids = self.model.generate(**inputs, max_new_tokens=max_tokens or 64, **{"do_sample": False, **options})
        before = inputs["input_ids"]
        if ids.shape[1] >= before.shape[1] and torch.equal(ids[:, : before.shape[1]], before):
            ids = ids[:, before.shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def _with_picture(self, prompt: str) -> str:
        """The prompt with the picture's place before it, as the model was trained to read them."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, *([{"type": "text", "text": prompt}] if prompt else [])]
            turns = [{"role": "user", "content": content}]
            return str(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        token = getattr(self.processor, "image_token", None)
        return f"{token}\n{prompt}" if isinstance(token, str) else prompt


def load_captioner(name: str | Path) -> Any:
    """What writes captions: a model that nearfar saved, or a folder or hub name of a vision-language model of
    transformers, such as InternVL, Qwen-VL, LLaVA or SmolVLM; on an accelerator where there is one. No code that comes
    with a checkpoint is run.

    Raises:
        UserError: no such model, or one that writes nothing of pictures.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoConfig

    from nearfar.models.loading import load

    folder = Path(name)
    named_folders = [each for each in (folder, folder / "model") if each.is_dir()]
    on_hub = not named_folders and str(name).count("/") == 1 and str(name)[0] not in "./"
    if not on_hub and (not named_folders or any(map(model_folder.is_ours, named_folders))):
        return load(name)
    try:
        config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception:  # a preset, an open_clip model, a wrong name: `load` says what it is
        return load(name)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return load(name)
    return _opened(str(name))


def _opened(name: str) -> TransformersCaptioner:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    dtype: Any = torch.float32 if device.type == "cpu" else "auto"
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # a folder's files are refused with every kind of error
        reason = why(error, "its files are damaged, or need code of their own, which is not run")
        raise UserError(f"no vision-language model {name!r} here or on the hub: {reason}") from error
    return TransformersCaptioner(model.eval().to(device), processor)
