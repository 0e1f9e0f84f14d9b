"""One door to every encoder: our folders, transformers checkpoints of pairs, texts and pictures, open_clip models,
presets."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from nearfar import files, models
from nearfar.errors import UserError
from nearfar.files import why
from nearfar.models import model_folder as checkpoint
from nearfar.models.shared.folder_layout import MODULES
from nearfar.models.tokenizer_files import read_tokenizer
from nearfar.models.towers import backbones

UNREADABLE = "its files are damaged, or of a model that transformers does not know"
ADAPTERS_OF_PEFT = "adapter_config.json"
ENCODES = (("encode_image", "preprocess"), ("encode_text", "tokenize"))
"""What an encoder has: one of these pairs, or both."""


def load(model: Any, *, tokenizer: Any = None, preprocess: Any = None) -> Any:
    """An encoder: `encode_image`, `encode_text`, `preprocess`, `tokenize`, `image_size`, `mean`, `std`, `embed_dim`;
    of a model that reads texts alone `encode_text`, `tokenize` and `embed_dim`, of pictures alone the others.

    Args:
        model: a folder that nearfar saved, or a run's, or the name on the hub that one was pushed to; a folder, hub
            name or instance of a transformers model with `get_image_features` and `get_text_features` (CLIP, SigLIP,
            SigLIP 2, ALIGN, AltCLIP, ...), of X-CLIP, of a language model, or of another transformers model that reads
            texts, or pictures; a folder or hub name of a sentence encoder; an open_clip model, or
            `open_clip:NAME:PRETRAINED` (a name of weights, or a file) and `open_clip:FOLDER`; the name of a pretrained
            preset (`"towers"`; `"starter"`, the same with heads trained on the embedded world) or of what comes in
            packages (`"minilm"`, `"smollm2"`, `"efficientnet-lite0"`); a folder that `nearfar export MODEL --onnx`
            wrote; or an encoder already.
        tokenizer: needed beside an instance; a transformers or open_clip tokenizer, or a processor of transformers that
            holds one, whose image processor is taken, too.
        preprocess: needed beside an open_clip model: its evaluation transform. Beside an instance of transformers its
            image processor, or a processor that holds one; without one pictures are prepared as its family is known to
            be trained.

    Returns:
        A `DualEncoder` in float32, whose parts can be frozen, adapted and saved, and whose embeddings were compared
        with the features that the model gives itself; it is a copy, and an instance stays as it is. For
        open_clip models, which stay as they are, an `OpenClipEncoder`; of X-CLIP a `VideoEncoder`. Of texts alone a
        `LanguageModel`, where the checkpoint continues texts and is no sentence encoder, else a `TextEncoder`; of
        pictures alone an `ImageEncoder`. Of ONNX files an `OnnxEncoder`, which embeds without transformers, and is
        neither trained nor saved. In evaluation mode if it came by name or folder.

    Raises:
        UserError: nothing of that name, a folder that holds no such model, a damaged file, a missing tokenizer; a
            model whose features or pixels would be others here than its own.

    >>> import nearfar
    >>> encoder = nearfar.load("towers")
    >>> encoder.embed_dim, encoder.image_size
    (256, 112)
    """
    if isinstance(model, (str, Path)):
        if checkpoint.is_exported(model):
            from nearfar.models.exported.onnx_encoder import read_onnx

            return read_onnx(model)
        with backbones.quiet():
            return _named(model, tokenizer)
    tokenizer, preprocess = _parts_of_processors(tokenizer, preprocess)
    if hasattr(model, "get_base_model"):
        model = _of_peft(model)
    if any(all(hasattr(model, name) for name in names) for names in ENCODES):
        return model
    from nearfar.models.dual.pretrained import from_transformers, is_pair
    from nearfar.models.video.xclip_checkpoint import from_xclip, is_xclip

    if is_xclip(model):
        return from_xclip(model, tokenizer, preprocess=preprocess)
    if is_pair(model):
        return from_transformers(model, tokenizer, preprocess=preprocess)
    if hasattr(model, "encode_image") and hasattr(model, "encode_text"):
        from nearfar.models.dual.open_clip import OpenClipEncoder

        return OpenClipEncoder(model, tokenizer=tokenizer, preprocess=preprocess)
    if getattr(model, "main_input_name", None) == "input_ids" and hasattr(model, "get_input_embeddings"):
        return _of_texts(model, tokenizer)
    if getattr(model, "main_input_name", None) == "pixel_values" and hasattr(model, "config"):
        return _of_pictures(model, preprocess)
    raise UserError(
        f"cannot make an encoder of a {type(model).__name__}: pass a model with encode_image and preprocess, or "
        "encode_text and tokenize; a transformers model of pictures, texts or both; or the folder or name of one"
    )


def _parts_of_processors(tokenizer: Any, preprocess: Any) -> tuple[Any, Any]:
    """The tokenizer and the image processor, of processors of transformers that hold both."""

    def holds_both(each: Any) -> bool:
        return hasattr(each, "image_processor") and hasattr(each, "tokenizer")

    if preprocess is None and holds_both(tokenizer):
        preprocess = tokenizer
    return (
        tokenizer.tokenizer if holds_both(tokenizer) else tokenizer,
        preprocess.image_processor if holds_both(preprocess) else preprocess,
    )


def _of_texts(model: Any, tokenizer: Any) -> Any:
    """An encoder around a copy of a transformers model that reads texts."""
    from nearfar.models.language.model import LanguageModel
    from nearfar.models.language.text_model import text_encoder

    if tokenizer is None:
        raise UserError(
            f"a {type(model).__name__} comes without its tokenizer: load(model, tokenizer=...), or load its folder"
        )
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return text_encoder(deepcopy(model), tokenizer=tokenizer).train(model.training)
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UserError(
            f"a {type(model).__name__} predicts words and gives no embedding of a text: load the model inside it "
            "(model.base_model)"
        )
    return LanguageModel(deepcopy(model), tokenizer)


def _of_pictures(model: Any, preprocess: Any) -> Any:
    """An encoder around a copy of a transformers model that reads pictures."""
    made = models.image_encoder(image=deepcopy(model)).train(model.training)
    if preprocess is not None:
        from nearfar.models.towers.processors import as_pixels

        made.pixels = as_pixels(preprocess, made.image_size)
    return made


def _of_peft(model: Any) -> Any:
    """What `peft.get_peft_model` was given, adapters in place; of a transformers model a copy with them folded in."""
    inside = model.get_base_model()
    return inside if hasattr(inside, "encode_text") else deepcopy(model).merge_and_unload()


def _named(name: str | Path, tokenizer: Any) -> Any:
    folder = Path(name)
    if str(name).startswith("open_clip:") or (folder / "open_clip_config.json").is_file():
        from nearfar.models.dual.open_clip_names import from_open_clip

        return from_open_clip(str(name))
    if any((folder / "model" / name).is_file() for name in (checkpoint.CONFIG, checkpoint.OURS)):
        folder = folder / "model"  # a run's folder
    if not folder.is_dir():
        return _by_word(name, tokenizer)
    if (folder / ADAPTERS_OF_PEFT).is_file() and not (folder / checkpoint.CONFIG).is_file():
        raise UserError(
            f"{folder} holds adapters of peft alone: open its model with them, "
            f"peft.PeftModel.from_pretrained(MODEL, {str(folder)!r}), and give that to nearfar.load"
        )
    sentences = (folder / MODULES).is_file() and not (folder / checkpoint.OURS).is_file()
    return checkpoint.read(folder) if not sentences and checkpoint.is_ours(folder) else _checkpoint(folder, tokenizer)


def _by_word(name: str | Path, tokenizer: Any) -> Any:
    """The encoder that a word stands for: ours, a package's, or one of the hub."""
    from nearfar.models.hub import fetched
    from nearfar.models.image.image_presets import IMAGE_PRESETS

    word = str(name)
    if files.is_address(word):
        raise UserError(f"{word}: an address, not a model here: name it as OWNER/NAME, or download it first")
    if word == "starter":
        from nearfar.models.starter import starter

        return starter()
    if word in models.PRESETS:
        if models.PRESETS[word]["image"] != backbones.LITE:
            raise UserError(f"{word!r} starts from scratch: train it, or make it with nearfar.models.create({word!r})")
        return models.create(word).eval()
    if word in IMAGE_PRESETS:
        raise UserError(
            f"{word!r} starts from scratch: train it, or make it with nearfar.models.image_encoder({word!r})"
        )
    if word in (backbones.LITE, backbones.LITE_DEEP):
        return models.image_encoder(image=word)
    if word == "smollm2":
        return _of_texts_alone(word, tokenizer, continues=True)
    ours = fetched(word) if word.count("/") == 1 else None
    return checkpoint.read(ours) if ours is not None else _checkpoint(name, tokenizer)


def _checkpoint(name: str | Path, tokenizer: Any) -> Any:
    from transformers import AutoConfig, AutoModel

    from nearfar.models.dual.pretrained import from_transformers, image_size, is_pair
    from nearfar.models.towers.processors import read_processor
    from nearfar.models.towers.sentence_folder import SentenceFolder
    from nearfar.models.video.xclip_checkpoint import from_xclip, is_xclip

    if (Path(name) / MODULES).is_file() and (Path(name) / "router_config.json").is_file():
        from nearfar.models.dual.router_folder import read_router

        return read_router(name)
    try:
        stated = SentenceFolder.read(backbones.minilm_folder() if name == backbones.MINILM else name)
        config: Any = AutoConfig.from_pretrained(stated.weights, trust_remote_code=False)
        if _reads_alone(config, "pixel_values"):
            if stated.pooling is not None:
                raise UserError(f"{name} is the side of a router that reads pictures: load the folder above it")
            return models.image_encoder(image=name)
        if _reads_alone(config, "input_ids"):
            # A language model of ours is one of sentences, too, by the mean of its tokens: it stays what it is.
            ours = hasattr(config, "tokenizer_sum") and stated.pooling == "mean" and not stated.layers
            plain = stated.weights == name and (stated.pooling is None or ours)
            return _of_texts_alone(name, tokenizer, continues=plain and _continues_texts(config))
        name = stated.weights
        model: Any = AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # a folder's files are refused with every kind of error
        raise UserError(f"no model {str(name)!r} here or on the hub: {why(error, UNREADABLE)}") from error
    if not is_pair(model):
        raise UserError(
            f"{name} holds a {type(model).__name__}, which is no encoder of texts, of pictures, or of both: give the "
            "part that reads pictures to nearfar.models.image_encoder as image=..."
        )
    tokenizer = tokenizer if tokenizer is not None else read_tokenizer(name)
    if is_xclip(model):
        return from_xclip(model, tokenizer, preprocess=read_processor(name, default=image_size(model)))
    return from_transformers(model, tokenizer, preprocess=read_processor(name, default=image_size(model)), copy=False)


def _of_texts_alone(name: str | Path, tokenizer: Any, *, continues: bool) -> Any:
    from nearfar.models.language.model import language_model
    from nearfar.models.language.text_model import text_encoder

    return language_model(name) if continues else text_encoder(name, tokenizer=tokenizer)


def _reads_alone(config: Any, inputs: str) -> bool:
    """Whether a checkpoint's model takes such inputs, `input_ids` or `pixel_values`, and nothing else."""
    from transformers import MODEL_MAPPING

    if hasattr(config, "vision_config") or type(config) not in MODEL_MAPPING:
        return False
    made: Any = MODEL_MAPPING[type(config)]
    return getattr(made[0] if isinstance(made, tuple) else made, "main_input_name", "") == inputs


def _continues_texts(config: Any) -> bool:
    """Whether a checkpoint holds a language model, with the layer that gives the next word."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return any(name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for name in config.architectures or ())
