"""A model's tokenizer on disk: the one it was trained with, or none.

With another tokenizer a model's embeddings of texts are garbage, and no error appears: transformers makes one even
where the file with the vocabulary is missing. So a saved model keeps a checksum of what its tokenizer does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nearfar.errors import UserError
from nearfar.files import why

VOCABULARIES = ("*.json", "*.txt", "*.model", "*.vocab", "*.tiktoken", "*.gguf")
"""Names of files that hold a tokenizer's words, whoever wrote them."""
SETTINGS = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
OTHERS = {"config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"}
OTHERS |= {"nearfar.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"}
TEXTS = (
    "A red apple, and 27 blue CARS under a green tree.",
    "don't!",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{DOG}",
)


def tokenizer_sum(tokenizer: Any) -> str:
    """A checksum of a tokenizer's vocabulary and of the ids it gives to some fixed texts. Another with the same sum
    gives the same ids, whatever its files are.

    >>> from nearfar.data import train_tokenizer
    >>> first, second = (train_tokenizer([text] * 9, 262) for text in ("a red car", "two dogs"))
    >>> tokenizer_sum(first) == tokenizer_sum(first) != tokenizer_sum(second)
    True
    """
    ids = [list(tokenizer(text, verbose=False)["input_ids"]) for text in TEXTS]  # longer than a model may read, perhaps
    content = [sorted(tokenizer.get_vocab().items()), ids]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_tokenizer(name: str | Path, expected: Any = None) -> Any:
    """The tokenizer in a folder (or of a name on the hub), compared with its checksum where there is one.

    Raises:
        UserError: no tokenizer there, a damaged one, or not the one that the model was saved with.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    remedy = "copy the tokenizer's files from where the model was saved, or save the model anew"
    if folder.is_dir() and not _has_vocabulary(folder):
        raise UserError(f"{folder} holds no tokenizer (tokenizer.json is missing): {remedy}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        # What may fail as late as here is a tokenizer whose files contradict one another.
        now = None if expected is None else tokenizer_sum(tokenizer)
    except Exception as error:  # tokenizers raises plain Exception
        fault = why(error, "its files are damaged or contradict one another")
        raise UserError(f"no tokenizer can be read from {name} ({fault}): {remedy}") from error
    if now != expected:
        raise UserError(f"the tokenizer in {folder} (tokenizer.json) is not the one its model was saved with: {remedy}")
    return tokenizer


def check_class(tokenizer: Any, model_type: str) -> None:
    """Raise a `UserError` where transformers would open the tokenizer's files as another class, and so as another
    tokenizer: beside some models (Qwen2, SigLIP 2) it goes by the model's type and not by what the files say."""
    from transformers.models.auto import tokenization_auto as auto

    registered = str(auto.TOKENIZER_MAPPING_NAMES.get(model_type) or "").removesuffix("Fast")
    plain = ("", "TokenizersBackend", "PythonBackend", "PreTrainedTokenizer", type(tokenizer).__name__)
    by_type = model_type in getattr(auto, "MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS", ())
    if by_type and registered not in {name.removesuffix("Fast") for name in plain}:
        raise UserError(f"transformers opens every tokenizer beside a {model_type} as a {registered}")


def _has_vocabulary(folder: Path) -> bool:
    names = {path.name for pattern in VOCABULARIES for path in folder.glob(pattern)}
    return any(not name.endswith(".index.json") for name in names - SETTINGS - OTHERS)
