"""DITO's model (arXiv 2310.00161): an image-text model whose image side is a detector of whatever texts name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import UserError
from nearfar.models import model_folder
from nearfar.models.detection.detections import best_detections, corrected_boxes, ensemble_detection_scores
from nearfar.models.detection.feature_pyramid import LEVELS, SimpleFeaturePyramid
from nearfar.models.detection.proposals import ProposalNetwork, best_proposals
from nearfar.models.detection.region_head import RegionHead, text_logits
from nearfar.models.detection.shifted_windows import Positions, ShiftedWindowEncoder, transformer_parts
from nearfar.models.dual.around_pair import AroundPair, open_pair
from nearfar.models.dual.dual_encoder import DualEncoder
from nearfar.models.hub import push_to_hub
from nearfar.models.towers.tokens import Tokens
from nearfar.ops.regions import clip_boxes, rescale_boxes, roi_align

CANONICAL = 14
"""Cells of level 4 a side of the box that is read there: 224 pixels at a stride of 16 (FPN, arXiv 1612.03144)."""


class Detector(AroundPair):
    """Pictures, their regions and texts in one space. `nearfar.models.detector` makes one of a dual encoder with a ViT.

    The transformer reads the picture in windows and gives one map, without its class token. A picture's embedding is
    the map's mean through the pair's image projection; a region's is what a head makes of what RoIAlign cuts out of a
    pyramid over the map. A further head proposes boxes.

    What is trained depends on the method, which calls `train_parts`: just made, the pair alone.

    Args:
        pair: the dual encoder, which becomes part of this model.
        window, shift, positions: see `ShiftedWindowEncoder`.
        levels: of the pyramid.
        width: channels of the pyramid (paper: 256).
        convolutions, hidden: of the head over regions (paper: 4 and 1024).

    Attributes:
        image_size, mean, std: what `preprocess` makes of pictures.
        tokenizer, max_length: what `tokenize` makes of texts.
        embed_dim: width of the shared space.
        temperature: the divisor of similarities that it was trained with; None where there is none.
        class_temperature: the learned T of the detector's own logits, cosines / (0.01 * T).

    Raises:
        UserError: an image tower that is no vision transformer; a setting out of its range.
    """

    push_to_hub = push_to_hub

    NEEDED: ClassVar[tuple[str, ...]] = ("pair", "detector")
    """What its saved config must have."""

    MODELS_WITHIN: ClassVar[dict[str, type]] = {"pair": DualEncoder}
    """Which of these are models themselves."""

    PARTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "image": ("pair.image.",),
        "image_projection": ("pair.image_projection.",),
        "text": ("pair.text.", "pair.text_projection."),
        "regions": ("pyramid.", "head.convolutions.", "head.hidden.", "head.classes."),
        "boxes": ("proposals.", "head.boxes.", "class_temperature"),
    }
    """What `train_parts` may name, by the beginnings of parameters' names."""

    def __init__(
        self,
        pair: DualEncoder,
        *,
        window: int | None = 16,
        shift: int | None = None,
        positions: Positions = "after",
        levels: Sequence[int] = LEVELS,
        width: int = 256,
        convolutions: int = 4,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        self.pair = pair
        self.reading: dict[str, Any] = {"window": window, "shift": shift, "positions": positions}
        ShiftedWindowEncoder(pair.image.backbone, **self.reading)  # refuses what it cannot read
        self.made_of = {"levels": list(levels), "width": width, "convolutions": convolutions, "hidden": hidden}
        self.pyramid = SimpleFeaturePyramid(pair.image.width, out=width, levels=levels)
        self.head = RegionHead(width, pair.embed_dim, convolutions=convolutions, hidden=hidden)
        self.proposals = ProposalNetwork(width)
        self.class_temperature = nn.Parameter(torch.ones(()))
        self.frozen_copy: Detector | None = None
        self.train_parts("image", "image_projection", "text")

    @property
    def temperature(self) -> float | None:
        """The divisor of similarities; None where there is none."""
        return self.pair.temperature

    @temperature.setter
    def temperature(self, value: float | None) -> None:
        self.pair.temperature = value

    def train_parts(self, *parts: str) -> Self:
        """Train these `PARTS` from here on, and no other. Class tokens, which nothing here reads, never are.

        Raises:
            UserError: no such part.
        """
        if unknown := [part for part in parts if part not in self.PARTS]:
            raise UserError(f"no part {unknown[0]!r}: choose among {', '.join(self.PARTS)}")
        starts = tuple(start for part in parts for start in self.PARTS[part])
        for name, parameter in self.named_parameters():
            unread = name.endswith(("cls_token", "mask_token")) or ".pooler." in name
            parameter.requires_grad_(name.startswith(starts) and not unread if starts else False)
        return self

    def resize_images(self, image_size: int) -> Self:
        """Take pictures of another size from here on, as in fine-tuning; see `DualEncoder.resize_images`. Position
        embeddings follow bilinearly, at every pass."""
        self.pair.resize_images(image_size)
        return self

    def tokenize(self, texts: Any) -> Tokens:
        """`input_ids` and `attention_mask` `[B, L]` long."""
        return self.pair.tokenize(texts)

    def encode_text(self, tokens: Mapping[str, Tensor] | Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[K, embed_dim]` of tokens `[K, L]` int64, in the weights' dtype; of unit length with
        `normalize=True`."""
        return self.pair.encode_text(tokens, normalize)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """The transformer's map `[B, W, H, W']` of pixels `[B, 3, S, S]` float32, in the weights' dtype."""
        if pixels.ndim != 4 or pixels.shape[1] != 3 or pixels.shape[2] != pixels.shape[3]:
            raise UserError(
                f"pixels are [B, 3, S, S] here (model.preprocess makes them); these are {list(pixels.shape)}"
            )
        return ShiftedWindowEncoder(self.pair.image.backbone, **self.reading)(pixels.to(self.device))

    def encode_image(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim]` of whole pictures, pixels `[B, 3, S, S]` float32: the projection of the map's
        mean; of unit length with `normalize=True`."""
        embedding = self.pair.image_projection(self.feature_map(pixels).mean((2, 3)))
        return F.normalize(embedding, dim=-1) if normalize else embedding

    def encode_image_map(self, pixels: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, embed_dim, H, W]` of the map's cells, of pixels `[B, 3, S, S]` float32; of unit length along
        dimension 1 with `normalize=True`. The head over regions has no part in it."""
        cells = self.pair.image_projection(self.feature_map(pixels).movedim(1, -1)).movedim(-1, 1)
        return F.normalize(cells, dim=1) if normalize else cells

    def pyramid_maps(self, pixels: Tensor) -> dict[int, Tensor]:
        """By level the pyramid's maps `[B, width, H, W]` of pixels `[B, 3, S, S]` float32."""
        return self.pyramid(self.feature_map(pixels))

    def level_regions(self, grid: Tensor, boxes: Tensor, image_size: int) -> Tensor:
        """What the head's branches read, `[B, R, hidden]`, of boxes `[B, R, 4]` in pixels, from one level's map `[B,
        width, H, W]`, floating point."""
        cut = roi_align(grid, boxes.to(grid), self.head.size, stride=image_size / grid.shape[-1])
        return self.head.features(cut.flatten(0, 1)).unflatten(0, cut.shape[:2])

    def region_features(self, maps: Mapping[int, Tensor], boxes: Tensor, image_size: int) -> Tensor:
        """As `level_regions`, each box from the level that suits its size."""
        level = self.levels_of(boxes, image_size)
        cut: Any = 0
        for number, grid in maps.items():
            regions = roi_align(grid, boxes.to(grid), self.head.size, stride=image_size / grid.shape[-1])
            cut = cut + regions * (level == number)[..., None, None, None]
        return self.head.features(cut.flatten(0, 1)).unflatten(0, cut.shape[:2])

    def levels_of(self, boxes: Tensor, image_size: int) -> Tensor:
        """The level `[...]` int64 for boxes `[..., 4]` in pixels of a picture: 4 + log2(side / 14 cells of level 4),
        rounded down, within the levels there are."""
        patches = transformer_parts(self.pair.image.backbone).patches
        stride = patches.stride[0] if isinstance(patches, nn.Conv2d) else 16
        area = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-3).prod(-1)
        ideal = (4 + (area.sqrt() / (CANONICAL * stride)).log2()).floor()
        levels = torch.tensor(self.pyramid.levels, device=boxes.device)
        return levels[(ideal[..., None] - levels).abs().argmin(-1)]

    def encode_regions(self, pixels: Tensor, boxes: Tensor, normalize: bool = False) -> Tensor:
        """Embeddings `[B, R, embed_dim]` of regions, boxes `[B, R, 4]` (x0, y0, x1, y1) in pixels of pixels `[B, 3, S,
        S]` float32; of unit length with `normalize=True`."""
        maps = self.pyramid_maps(pixels)
        regions = self.head.embeddings(self.region_features(maps, boxes.to(self.device), pixels.shape[-1]))
        return F.normalize(regions, dim=-1) if normalize else regions

    def keep_frozen(self, model: Detector | str | Path | None) -> Self:
        """Score regions by a frozen model, too, from here on: the one before fine-tuning, or its folder; None: by none.
        It is no part of this model, and not saved with it.

        Raises:
            UserError: another kind of model, or one with another space.
        """
        if isinstance(model, str | Path):
            model = model_folder.read(model)
        if model is not None and not isinstance(model, Detector):
            raise UserError(f"the frozen model is a {type(model).__name__}: it is to be a detector before fine-tuning")
        copied = None if model is None else deepcopy(model).requires_grad_(False).eval().to(self.device)
        self.__dict__["frozen_copy"] = copied  # no submodule: what is trained and saved is this model alone
        return self

    def frozen_scores(self, pixels: Tensor, boxes: Tensor, texts: Tensor, temperature: float = 0.01) -> Tensor:
        """Probabilities `[B, R, K]` of boxes `[B, R, 4]` by this model's map alone, for texts `[K, embed_dim]`: boxes
        shrunk to 0.7, cut out 14 x 14 and averaged. Of pixels `[B, 3, S, S]` float32."""
        cells = self.encode_image_map(pixels)
        side = pixels.shape[-1]
        shrunk = rescale_boxes(boxes, (side, side), 0.7).to(cells)
        regions = roi_align(cells, shrunk, 14, stride=side / cells.shape[-1]).mean((3, 4))
        return text_logits(regions, texts, temperature).softmax(-1)

    @torch.no_grad()
    def detect(
        self,
        pixels: Tensor,
        texts: Tensor,
        *,
        is_base: Tensor | None = None,
        proposals: int = 100,
        overlap: float = 0.5,
        most: int = 100,
    ) -> list[dict[str, Tensor]]:
        """What is where in each picture, of the classes that texts name.

        Args:
            pixels: `[B, 3, S, S]` float32.
            texts: `[1 + K, embed_dim]`; row 0 is the background, the embedding of an empty text.
            is_base: `[K]` bool, which classes it was fine-tuned on; only the frozen model's weight depends on it.
            proposals: boxes that are looked at (paper: 1000).
            overlap: from which of two boxes of one class only the better is kept (IoU).
            most: detections a picture.

        Returns:
            For each picture `boxes` `[M, 4]` in pixels, `scores` `[M]`, centerness ** 3 times the class's probability,
            and `labels` `[M]` int64 from 0, best first.
        """
        side = pixels.shape[-1]
        maps = self.pyramid_maps(pixels)
        places = self.proposals(maps, side)
        boxes, centerness = best_proposals(places[0], places[1], proposals, side)
        features = self.region_features(maps, boxes, side)
        scores = text_logits(self.head.embeddings(features), texts, 0.01 * self.class_temperature).softmax(-1)
        if self.frozen_copy is not None:
            frozen = self.frozen_copy.frozen_scores(pixels, boxes, texts)
            scores = ensemble_detection_scores(scores, frozen, is_base)
        final = clip_boxes(corrected_boxes(boxes, self.head.boxes(features)), side, side)
        scores = centerness[..., None] ** 3 * scores[..., 1:]
        return [best_detections(b, s, overlap=overlap, most=most) for b, s in zip(final, scores, strict=True)]

    def forward(self, pixels: Tensor, tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embeddings of whole pictures and of texts, `[B, embed_dim]` each, of unit length."""
        return self.encode_image(pixels, normalize=True), self.encode_text(tokens, normalize=True)

    def config(self) -> dict[str, Any]:
        """Everything but weights and tokenizer, as plain data: what `from_config` builds the model from."""
        return {"pair": self.pair.config(), "detector": {**self.reading, **self.made_of}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], tokenizer: Any) -> Self:
        """A model of this shape with fresh weights."""
        return cls(DualEncoder.from_config(config["pair"], tokenizer), **config["detector"])

    def save_pretrained(self, folder: str | Path, *, state_dict: Mapping[str, Tensor] | None = None) -> Path:
        """Write `config.json`, `model.safetensors`, tokenizer and card to `folder`, each file whole or not at all.

        `state_dict` gives the weights where the module does not hold them all (sharded training).
        """
        return model_folder.write(folder, self, state_dict or self.state_dict())


def detector(
    pair: Any = "tiny-vit",
    *,
    window: int | None = 16,
    shift: int | None = None,
    positions: Positions = "after",
    levels: Sequence[int] = LEVELS,
    width: int = 256,
    convolutions: int = 4,
    hidden: int = 1024,
    tokenizer: Any = None,
    image_size: int | None = None,
) -> Detector:
    """A detector around a copy of a dual encoder with a vision transformer (DITO, arXiv 2310.00161).

    Args:
        pair: a dual encoder, a folder or a name that `nearfar.load` opens as one, or the arguments of
            `nearfar.models.create` by name.
        window: tokens a side of a window of attention (paper: 16); None: none.
        shift: tokens that the second pass is shifted by; None: half a window, 0: no second pass.
        positions: whether position embeddings are added "after" the shift (released code) or "before".
        levels: of the pyramid, some of 2 to 5: strides of 4 to 32 with patches of 16 pixels.
        width, convolutions, hidden: of pyramid and head (paper: 256, 4 and 1024).
        tokenizer: for a pair that is made from scratch.
        image_size: side of the pictures, where the pair's own is not to be taken.

    Raises:
        UserError: no such pair, or one that is no dual encoder with a ViT; a setting that it cannot have.

    >>> from nearfar.data import train_tokenizer
    >>> model = detector("tiny-vit", window=4, width=32, hidden=64, tokenizer=train_tokenizer(["a cat"], 300)).eval()
    >>> boxes = torch.tensor([[[0.0, 0.0, 32.0, 32.0], [8.0, 8.0, 16.0, 24.0]]])
    >>> model.encode_regions(torch.rand(1, 3, 64, 64), boxes).shape
    torch.Size([1, 2, 128])
    """
    opened = open_pair(
        pair, "a detector is made of a DualEncoder with a ViT", tokenizer=tokenizer, image_size=image_size
    )
    settings: dict[str, Any] = {"window": window, "shift": shift, "positions": positions, "levels": levels}
    return Detector(opened, **settings, width=width, convolutions=convolutions, hidden=hidden)
