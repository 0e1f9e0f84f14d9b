"""The model of an index as ONNX files within it, so that a query starts without transformers.

A single search from a shell spends nearly all its time on importing what runs the model. `nearfar index --onnx` exports
the model once, into the index's own folder, and each search opens that export. As any model it is held against how the
index's model saw its probes; where it cannot serve, the model that the index names does.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.errors import UserError, need
from nearfar.models import load
from nearfar.models.exported.onnx_folder import CONSTANTS
from nearfar.models.shorter import as_stored, shortened
from nearfar.search.index.identity import check_model
from nearfar.search.index.manifest import CARRIED, NAME, Manifest, load_manifest

if TYPE_CHECKING:
    from nearfar.export.onnx_towers import Compared


def carried(directory: Path, manifest: Manifest) -> Any | None:
    """The model that the index carries as ONNX files, cut to the index's width; None where it carries none, or, with a
    warning, one that does not open or is another model."""
    folder = directory / CARRIED
    if not (folder / CONSTANTS).is_file():
        return None
    try:
        encoder = as_stored(load(str(folder)), manifest.dim)
        check_model(manifest, encoder, where=str(directory))
    except UserError as error:
        remedy = f"`nearfar index --onnx` writes {folder} anew"
        warnings.warn(f"searching by the model {manifest.model!r} itself: {error}; {remedy}", stacklevel=2)
        return None
    return encoder


def carry(encoder: Any, directory: Path, *, name: str, dim: int | None = None) -> list[Compared]:
    """Write the model into the index's folder as ONNX files, unless they are there and of this model.

    Args:
        encoder: the model that the index is, or will be, made with.
        directory: the index; it need not be made yet.
        name: what the model is called.
        dim: to how many numbers the index cuts its embeddings.

    Returns:
        For each tower what was compared; nothing where the files were there already.

    Raises:
        UserError: the extra `onnx` is missing; the index there is of another model; the model cannot be exported.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "onnx")
    from nearfar.export.onnx_towers import export_onnx
    from nearfar.models.exported.onnx_encoder import refuse

    refuse(encoder, "carry")
    if (directory / NAME).is_file():
        manifest = load_manifest(directory)
        check_model(manifest, shortened(encoder, dim or manifest.dim), where=str(directory))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what does not serve is written anew
            if carried(directory, manifest) is not None:
                return []
    return export_onnx(encoder, directory / CARRIED, name=name)
