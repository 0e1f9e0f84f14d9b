"""`model.push_to_hub`: a model's folder on the Hugging Face hub, and back."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError


def push_to_hub(
    self: Any,
    name: str,
    *,
    private: bool = False,
    card: str | Path | None = None,
    message: str = "A model of nearfar",
    token: str | None = None,
) -> str:
    """Upload what `save_pretrained` writes to the Hugging Face hub; the repository is made if need be.

    Args:
        name: `owner/model`, or `model` of the token's own user.
        private: whether others can see it; of a new repository.
        card: a file whose text is the model card, such as the `README.md` in the folder of a run, which has data and
            figures; None: one without figures.
        message: of the commit.
        token: a token that may write; None: the one that `hf auth login` or `HF_TOKEN` gave.

    Returns:
        The address of the commit.

    Raises:
        UserError: no token, one that may not write there, no such place, or no network.
    """
    from huggingface_hub import HfApi

    if card is not None and not Path(card).is_file():
        raise UserError(f"card={str(card)!r}: no such file")
    with tempfile.TemporaryDirectory(prefix="nearfar-") as scratch:
        folder = self.save_pretrained(Path(scratch) / "model")
        if card is not None:
            files.write(folder / "README.md", Path(card).read_text("utf-8"))
        api = HfApi(token=token)
        try:
            made = api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
        except Exception as error:  # the hub's client, its network library and its checks each raise their own
            raise UserError(f"{name} cannot be pushed: {_why(error)}") from error
    return str(commit.commit_url)


def fetched(name: str) -> Path | None:
    """The folder of a model that nearfar saved and pushed, fetched from the hub or kept from before; None where there
    is none of that name, or another library's.

    Raises:
        UserError: it is there, and its files cannot be fetched; nothing of it is kept, and the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    _check_reachable(name)
    if not any(_is_ours(name, file) for file in ("nearfar.json", "config.json")):
        return None
    try:
        return Path(snapshot_download(name))
    except Exception as error:  # the hub's client, its network library and its checks each raise their own
        raise UserError(
            f"{name} cannot be fetched: {files.why(error, 'the hub refused it: check that its files are whole')}"
        ) from error


def _check_reachable(name: str) -> None:
    """Ask the hub once for a name of which nothing is kept: without a network each look-up of a file of it takes half a
    minute, as it is tried again and again."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    kept = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    if constants.is_offline_mode() or kept.exists():
        return
    try:
        HfApi().model_info(name, timeout=10)
    except Exception as error:  # the client's own, those of its network library, and those of names
        if {kind.__name__ for kind in type(error).__mro__} & files.NO_NETWORK:
            raise UserError(f"no model {name!r} here or on the hub: {files.why(error, '')}") from error


def _is_ours(name: str, file: str) -> bool:
    from transformers.utils import cached_file

    try:
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        return path is not None and "nearfar" in json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):  # no such name, or no network: said where it is looked for as a checkpoint
        return False


def _why(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 or type(error).__name__ == "LocalTokenNotFoundError":
        return "no valid token of the hub was given: `hf auth login`, set HF_TOKEN, or pass token=..."
    if status == 403:
        return "this token may not write there: make one with write access, or name a repository of your own"
    if (status is None and isinstance(error, OSError)) or "connect" in type(error).__name__.lower():
        return "the hub cannot be reached: check the network, or save_pretrained to a folder"
    return "the hub refused it: check the name (owner/model), and that the folder's files are whole"
