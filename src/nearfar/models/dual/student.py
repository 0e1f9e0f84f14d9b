"""A student of an image-text model: another image tower in the space of the teacher, whose text side it has."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.dual.around_pair import open_pair
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.dual.projection import Kind, projection
from nearfar.models.image.image_presets import IMAGE_PRESETS
from nearfar.models.towers import backbones
from nearfar.models.towers.pixels import Pixels
from nearfar.models.towers.tower import ImageTower


@backbones.quiet()
def student_encoder(
    teacher: Any,
    *,
    image: backbones.Source,
    image_size: int | None = None,
    image_pooling: str | None = None,
    image_projection: str = "linear",
    pretrained: bool = True,
) -> DualEncoder:
    """A dual encoder of an image tower and a teacher's text side, with a fresh projection between the tower and the
    teacher's space (VL2V-ADiP, arXiv 2310.08255).

    It embeds texts as the teacher does, and pictures at the price of its own tower. The method `vl2v` teaches it; until
    then its pictures lie anywhere.

    Args:
        teacher: a dual encoder, or a folder or name that `nearfar.load` opens as one. Its text tower, projection,
            tokenizer and temperature are copied, adapters folded in.
        image: a tower as in `nearfar.models.create`; a preset of `nearfar.models.image_encoder`, from scratch; or a
            model with an image tower that nearfar saved, or that one has in hand, whose tower is copied.
        image_size: side of the student's pictures; by default the tower's own.
        image_pooling: see `ImageTower`; by default what suits the tower.
        image_projection: "linear" (paper), "linear-no-bias", "mlp" or "none".
        pretrained: whether a tower given by name or folder comes with its weights.

    Raises:
        UserError: no such teacher, or one that is no dual encoder; no such tower.

    >>> import torch
    >>> from nearfar.data import train_tokenizer
    >>> from nearfar.models import create
    >>> teacher = create("tiny", tokenizer=train_tokenizer(["a cat", "a dog"], 300))
    >>> student = student_encoder(teacher, image="micro-resnet")
    >>> tokens = student.tokenize(["a cat"])
    >>> torch.equal(student.eval().encode_text(tokens), teacher.eval().encode_text(tokens))
    True
    >>> student.image_size, student.embed_dim
    (32, 128)
    """
    opened = open_pair(teacher, "a student has the text side of a dual encoder, so give it one as its teacher")
    if "text" in opened.adapters:
        opened.merge_lora()
    tower, pixels = _image_side(image, image_size, image_pooling, pretrained)
    student = DualEncoder(
        tower,
        opened.text,
        tokenizer=opened.tokenizer,
        pixels=pixels,
        embed_dim=opened.embed_dim,
        image_projection=image_projection,
        text_projection=opened.config()["text_projection"],
        max_length=opened.max_length,
        temperature=opened.temperature,
        bias=opened.bias,
    )
    _copy_projection(opened.config()["text_projection"], opened, student)
    student.train(opened.training)
    return student.freeze("text", "text_projection")


def _copy_projection(kind: Kind, teacher: DualEncoder, student: DualEncoder) -> None:
    """Give the student the teacher's text projection. Dropout inside it, which has no weights, is left out."""
    made = projection(kind, teacher.text.width, teacher.embed_dim, side="text")
    theirs = [*teacher.text_projection.parameters(), *teacher.text_projection.buffers()]
    for mine, value in zip([*made.parameters(), *made.buffers()], theirs, strict=True):
        mine.data.copy_(value.data)
    student.text_projection = made


def _image_side(image: Any, image_size: int | None, pooling: str | None, pretrained: bool) -> tuple[ImageTower, Pixels]:
    """An image tower, and how its pictures are prepared."""
    from nearfar.models.loading import load

    if isinstance(image, str) and image in IMAGE_PRESETS:
        preset = IMAGE_PRESETS[image]
        size = image_size or preset["image_size"]
        config = preset["image"]
        config = config if config["model_type"] in ("convnext", "resnet") else {"image_size": size, **config}
        return backbones.image_tower(config, image_size=size, pooling=pooling)
    if isinstance(image, str | Path) and _is_saved(Path(image)):
        image = load(image)
    if isinstance(tower := getattr(image, "image", None), ImageTower):
        model = deepcopy(image)
        if pooling is not None and pooling != tower.pooling:
            own = tower.pooling
            raise UserError(f"image_pooling is {pooling!r}, and the tower was trained with {own!r}: leave it out")
        if image_size is not None:
            model.resize_images(image_size)
        return model.image.requires_grad_(True), model.pixels
    return backbones.image_tower(image, image_size=image_size, pooling=pooling, pretrained=pretrained)


def _is_saved(folder: Path) -> bool:
    """Whether nearfar saved a model in this folder, or in the folder of a run."""
    files = (model_folder.CONFIG, model_folder.OURS)
    held = [path for path in (folder / "model", folder) if any((path / name).is_file() for name in files)]
    return bool(held) and model_folder.is_ours(held[0])
