"""What the folder of a sentence encoder, as sentence-transformers writes it, states beside its weights: how the tokens'
states become one vector, and how long a text may be."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nearfar.errors import UserError
from nearfar.models.folder_checks import first_line

POOLING = {"mean": "mean", "cls": "cls", "lasttoken": "eos"}
"""The poolings of sentence-transformers that a `TextTower` has, and what it calls them."""
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


@dataclass(frozen=True)
class SentenceFolder:
    """A sentence encoder's folder. `weights` is what transformers opens; the rest is None where nothing is stated, as
    for any model that is no sentence encoder."""

    weights: Any
    pooling: str | None = None
    max_length: int | None = None

    @classmethod
    def read(cls, name: Any) -> Self:
        """Read the small files of a folder or hub name; anything else is handed on.

        Raises:
            UserError: the encoder has a part that is not read here (a dense layer), or a damaged file.
        """
        modules = _json(name, "modules.json") if isinstance(name, (str, Path)) else None
        if not isinstance(modules, list):
            return cls(name)
        kinds = {str(module.get("type", "")).rpartition(".")[2]: module for module in modules if _is_plain(module)}
        unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
        if unknown or len(kinds) != len(modules) or "Transformer" not in kinds:
            parts = ", ".join(unknown) or "modules.json"
            raise UserError(f"{name} is a sentence encoder with parts that are not read here ({parts}): take another")
        below = kinds["Transformer"].get("path") or ""
        settings = _json(name, f"{below}/sentence_bert_config.json".lstrip("/")) or {}
        most = settings.get("max_seq_length")
        return cls(
            Path(name) / below if below else name,
            pooling=_pooling(name, kinds["Pooling"]) if "Pooling" in kinds else None,
            max_length=most if isinstance(most, int) and most > 0 else None,
        )


def _pooling(name: Any, module: dict[str, Any]) -> str:
    stated = _json(name, f"{module['path']}/config.json") or {}
    chosen = [mode for flag, mode in _FLAGS.items() if stated.get(flag)]
    others = [key for key, value in stated.items() if key.startswith("pooling_mode_") and value and key not in _FLAGS]
    chosen = [stated["pooling_mode"]] if isinstance(stated.get("pooling_mode"), str) else chosen
    if len(chosen) != 1 or others or chosen[0] not in POOLING:
        called = ", ".join([*chosen, *(other.removeprefix("pooling_mode_") for other in others)]) or "nothing"
        raise UserError(f"{name} pools by {called}, which is not done here: name one of ours with pooling=...")
    return POOLING[chosen[0]]


def _is_plain(module: Any) -> bool:
    """Whether an entry of modules.json names a folder below its own, and no other place."""
    path = module.get("path", "") if isinstance(module, dict) else None
    return isinstance(path, str) and (not path or path.replace("_", "a").isalnum())


def _json(name: Any, file: str) -> Any:
    """A JSON file of a folder or of a name on the hub; None where there is none."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        path = Path(name) / file
        if not path.is_file():
            return None
    else:
        try:
            path = cached_file(str(name), file, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return None  # no such model, which is said where its weights are read
        if path is None:
            return None
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {first_line(error)}") from None
