"""`nearfar export`."""

from __future__ import annotations

from pathlib import Path


def export(
    model: str,
    *,
    out: Path = Path("exported"),
    onnx: bool = False,
    sentence_transformers: bool = False,
    torchvision: bool = False,
) -> None:
    """Write a model for others: as ONNX files that run without torch, as a folder for sentence-transformers, or as the
    weights of a ResNet for torchvision.

    sentence-transformers: texts and pictures of a model on towers of transformers (a CLIP, a SigLIP, two others), texts
    alone of another.

    ONNX: both towers, with free batch and text length, compared with the model through onnxruntime before they are
    kept; tokenizer and constants of pictures beside them. nearfar opens the folder as a model that embeds, so that a
    single search from a shell starts in a third of the time; examples/embed_onnx.py reads it without nearfar.

    torchvision: an image tower that is a ResNet, under the names of torchvision's (and timm's) ResNets.

    Args:
        model: a folder that nearfar or transformers saved, or a model's name.
        out: the folder to write; what is there is replaced.
        onnx: write ONNX files.
        sentence_transformers: write a folder that sentence-transformers and transformers' AutoModel open.
        torchvision: write the weights of a ResNet that torchvision's load_state_dict takes.
    """
    from nearfar.errors import UserError

    if onnx + sentence_transformers + torchvision != 1:
        raise UserError("say what to write: --onnx, --sentence-transformers, or --torchvision")
    own = ("text.onnx", "modules.json", "preprocess.json")
    if out.is_dir() and any(out.iterdir()) and not any((out / name).is_file() for name in own):
        raise UserError(f"--out {out}: this folder holds other things, and would be replaced: name another")
    from nearfar.models import load
    from nearfar.models.exported.onnx_encoder import refuse

    loaded, name = load(model), Path(model).resolve().name if Path(model).exists() else model
    refuse(loaded, "export")
    figures = _figures(Path(model))
    if onnx:
        from nearfar.export.onnx_towers import OPSET, export_onnx

        print(*export_onnx(loaded, out, name=name, measured=figures), sep="\n")
        print(f"{out}: opset {OPSET}, batch and text length are free")
    elif torchvision:
        from nearfar.export.torchvision_resnet import export_torchvision

        resnet = export_torchvision(loaded, out, name=name, measured=figures)
        print(f"{out}/{resnet}.safetensors: torchvision.models.{resnet}, its fc replaced by Identity, loads it")
    else:
        from nearfar.export.sentence_encoder import export_sentence_encoder

        print(export_sentence_encoder(loaded, out, name=name, measured=figures))
        whole = (out / "config.json").is_file()
        parts = [out] if whole else [part for part in (out / "text", out / "image") if part.is_dir()]
        print(
            f'{out}: SentenceTransformer("{out}"), or',
            " and ".join(f'transformers.AutoModel.from_pretrained("{part}")' for part in parts),
        )


def _figures(folder: Path) -> str:
    """What the card of a model's folder, or of a run's, says of its data and figures."""
    from nearfar.models.card import measured

    cards = [page for page in (folder / "model" / "README.md", folder / "README.md") if page.is_file()]
    return measured(cards[0].read_text("utf-8")) if cards else ""
