"""A folder that sentence-transformers opens, and AutoModel of transformers: the same embeddings, or a refusal.

A dual encoder that is a CLIP or a SigLIP goes out as the pair that it is, one on two towers of transformers as a router
to both. Of another the text tower does: the transformer, its pooling, and the projection as dense layers. No code goes
with it.
"""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

from nearfar import files
from nearfar.errors import UserError
from nearfar.models.card import card
from nearfar.models.shared.folder_layout import Layout
from nearfar.models.shared.pair_layout import pair_layout
from nearfar.models.shared.sentence_layout import INSTEAD, sentence_layout
from nearfar.models.shared.towers_layout import towers_layout

USE = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("this/folder")
vectors = model.encode(["a red car", "a small dog"], normalize_embeddings=True)
```

`nearfar.load("this/folder")` opens it with the same numbers."""


def export_sentence_encoder(model: Any, out: str | Path, *, name: str = "a model", measured: str = "") -> str:
    """Write a folder for `SentenceTransformer(out)`, whose `encode` gives what `model.encode` gives (to 1e-5), and for
    `AutoModel.from_pretrained(out)`, which gives the transformer in it (of two towers `out/text` and `out/image`).
    What `save_pretrained` writes of such a model is such a folder already. Here adapters are folded in, and of another
    dual encoder the text side goes out.

    Args:
        model: a `TextEncoder`, a `LanguageModel` or a `DualEncoder`.
        out: the folder; what is there is replaced.
        name: what to call the model in the card.
        measured: what the model's own card says of its data and figures (`nearfar.models.card.measured`).

    Returns:
        What is in the folder, in a sentence.

    Raises:
        UserError: a tower or head that neither library can express, with what to use instead.
    """
    if getattr(model, "adapters", None):
        model = deepcopy(model).merge_lora()
    layout, said = _layout(model)
    with files.new_folder(Path(out)) as scratch:
        layout.write(scratch, model.state_dict())
        about = f"Exported by nearfar for sentence-transformers: it embeds {said}."
        files.write(scratch / "README.md", card(model, title=name, about=about, figures=measured, use=USE))
    return f"it embeds {said}"


def _layout(model: Any) -> tuple[Layout, str]:
    """Both sides where other libraries have such a model, else the text side, and what is embedded, in words."""
    if not hasattr(model, "encode_image"):
        layout = sentence_layout(model)
        return layout, layout.embeds
    with suppress(UserError):
        layout = pair_layout(model)
        return layout, layout.embeds
    try:
        layout = towers_layout(model)
    except UserError as why:
        return sentence_layout(model), f"texts alone; for pictures {INSTEAD}: {why}"
    return layout, layout.embeds
