"""An index together with the model that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nearfar.errors import UserError
from nearfar.models.shorter import as_stored
from nearfar.search.index.identity import check_model
from nearfar.search.index.manifest import CARRIED
from nearfar.search.index.stored_index import Index


def open_index(directory: Path | str, *, model: str | None = None, itself: bool = False) -> tuple[Index, Any]:
    """The index in a directory, and its encoder, cut to the index's width: the one named, else the export that the
    index carries, else the model that it names.

    Args:
        directory: the index.
        model: path or name of the model, where it is not (or no longer) the one that the index names.
        itself: leave an export alone: what is more than embedding (a matching head) only the model can.

    Raises UserError when there is no index, or its model cannot be loaded, or is another one.
    """
    from nearfar.models import load

    index = Index(directory)
    if model is None and not itself and (Path(directory) / CARRIED).is_dir():
        from nearfar.search.querying.carried_model import carried

        if (encoder := carried(Path(directory), index.manifest)) is not None:
            return index, encoder
    try:
        encoder = load(model or index.model)
    except UserError as error:
        if model is not None:
            raise
        raise UserError(
            f"the index {directory} was made with the model {index.model!r}, which does not load: {error}\n"
            "If it lies elsewhere now, name it with --model"
        ) from None
    encoder = as_stored(encoder, index.manifest.dim)
    check_model(index.manifest, encoder, where=str(directory))
    return index, encoder


def resolve(name: str) -> str:
    """A path made absolute, so that it holds from any folder; another name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name
