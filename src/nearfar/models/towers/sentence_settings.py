"""What the small files of a sentence encoder's folder set beside its modules: how texts are prepared, and which states
of the transformer are read. What is not followed here is refused by its name, so that no text gets other numbers in
silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nearfar.errors import UserError

FILES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
"""Of `sentence_NAME_config.json`, as older versions named it after the model."""
STATES, VECTOR = ("forward", ("last_hidden_state",)), ("forward", ("pooler_output",))
HARMLESS = {
    "model": {"attn_implementation", "dtype", "torch_dtype", "add_pooling_layer", "use_safetensors", "device_map"},
    "processor": {"padding_side", "model_max_length", "use_fast", "clean_up_tokenization_spaces"},
    "config": {"attn_implementation", "use_cache"},
    "processing": {"padding", "truncation", "max_length", "return_attention_mask"},
}
"""Settings that change no number where texts are padded on the right, or that are followed (the two lengths)."""
OLDER = {"model": "model_args", "processor": "tokenizer_args", "config": "config_args"}

ReadJson = Callable[[str], Any]
"""The content of a file of the folder; None where there is none."""


@dataclass(frozen=True)
class Settings:
    """`max_length` tokens of a text (None: as the tokenizer says), texts in lower case or not, and whether the
    transformer's own pooling makes the vector, without a module for it. `pair`: it is one of pictures and texts."""

    max_length: int | None = None
    lower_case: bool = False
    own_pooling: bool = False
    pair: bool = False


def read_settings(name: Any, read: ReadJson, below: str) -> Settings:
    """The settings of the folder `name`, whose transformer lies in its folder `below` ("" where it is the same).

    Raises:
        UserError: a setting that is not followed here.
    """
    _check_whole(name, read("config_sentence_transformers.json") or {})
    files = (read(f"{below}/sentence_{kind}_config.json".lstrip("/")) for kind in FILES)
    stated: Mapping[str, Any] = next((each for each in files if isinstance(each, dict) and each), {})
    parts = {part: _part(stated, part) for part in HARMLESS}
    for part, settings in parts.items():
        if strange := sorted(set(settings) - HARMLESS[part]):
            _refuse(name, f"{OLDER.get(part, part)}: {strange[0]}", "take another, or a copy without it")
    lengths = (
        stated.get("max_seq_length"),
        parts["processor"].get("model_max_length"),
        parts["processing"].get("max_length"),
    )
    most = [length for length in lengths if isinstance(length, int) and length > 0]
    pair, own_pooling = _reads(name, stated)
    return Settings(min(most, default=None), stated.get("do_lower_case") is True, own_pooling, pair)


def lower_cased(tokenizer: Any) -> Any:
    """The tokenizer, made to read texts in lower case."""
    from tokenizers import normalizers

    inner = tokenizer.backend_tokenizer
    before = [] if inner.normalizer is None else [inner.normalizer]
    inner.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer


def _part(stated: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The settings of one kind, whatever the version that wrote them called it."""
    if part == "processing":
        held = stated.get("processing_kwargs") or {}
        return {**(held.get("common") or {}), **(held.get("text") or {})}
    return stated.get(f"{part}_kwargs") or stated.get(OLDER[part]) or {}


def _reads(name: Any, stated: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the transformer is one of pictures and texts, and whether its own pooling makes the vector."""
    kinds = stated.get("modality_config")
    if not isinstance(kinds, dict):
        return False, False
    if len(kinds) > 1:
        return "image" in kinds, False
    only: Mapping[str, Any] = next(iter(kinds.values()), {})
    states = only.get("method_output_name")
    read = only.get("method"), (states,) if isinstance(states, str) else tuple(states or ())
    into = stated.get("module_output_name")
    if (read, into) not in ((STATES, "token_embeddings"), (VECTOR, "sentence_embedding")):
        part = "/".join(map(str, read[1])) or str(read[0])
        _refuse(name, f"modality_config: {part} of its transformer as {into}", "take another")
    return False, read == VECTOR


def _check_whole(name: Any, stated: Any) -> None:
    """What `config_sentence_transformers.json` says of the whole model."""
    stated = stated if isinstance(stated, dict) else {}
    prompt = (stated.get("prompts") or {}).get(stated.get("default_prompt_name"))
    if prompt:
        _refuse(
            name,
            f"default_prompt_name: {prompt[:40]!r} before every text",
            "set default_prompt_name to null in config_sentence_transformers.json, and write it before texts yourself",
        )
    if stated.get("truncate_dim"):
        _refuse(
            name,
            f"truncate_dim: {stated['truncate_dim']} numbers of each vector",
            "set it to null in config_sentence_transformers.json, and cut with encode(dim=...)",
        )


def _refuse(name: Any, setting: str, remedy: str) -> None:
    raise UserError(f"{name} is a sentence encoder with a setting that is not followed here ({setting}): {remedy}")
