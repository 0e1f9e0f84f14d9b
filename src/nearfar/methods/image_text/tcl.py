"""TCL (arXiv 2202.10401): triple contrast. To ALBEF's contrast across modalities it adds one within each modality and
one from the global vector to local ones, all against the momentum teacher.

    L = (L_i2t + L_t2i + L_i2i + L_t2t + L_lmi_image + L_lmi_text) / 6  +  L_itm + L_mlm

Cross-modal alignment (CMA) is ALBEF's ITC with distilled targets; intra-modal contrast (IMC) has hard targets; local
mutual information (LMI) trains the online global vector to recognise the teacher's local features of its own sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from nearfar.errors import UserError
from nearfar.losses.functional import global_local_info_nce
from nearfar.losses.groups import unit
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.matching import masked_language_loss, matching_loss
from nearfar.methods.parts.momentum_contrast import MomentumContrast, group_of
from nearfar.models.fusion.fusion_model import FusionModel

CELLS = 4
"""Patches are pooled to 4 x 4 cells."""


class TCL(Method):
    """TCL over a `FusionModel`. Needs two views a picture: view 0 for the student, view 1 for the teacher.

    Loaders that nearfar makes for it give two views; make your own with `n_views=2`.

    Args:
        model: the dual encoder with its fusion encoder; its image tower must give a square grid of patches.
        temperature, momentum, queue_size, alpha, ramp_steps, mask_probability: as ALBEF's.
        weights: of (i2t, t2i, i2i, t2t, lmi image, lmi text). Default: the released code's, a sixth each. The paper's
            text has a half each, three times as much. (1/2, 1/2, 0, 0, 0, 0) is ALBEF's contrast.
        share_duplicates: samples of one `group` share targets and are never negatives. The released code does so in
            retrieval fine-tuning, and nowhere for LMI.

    With several processes a step is that of one process with the whole batch, but for LMI and the draw of ITM's
    negatives: their negatives are of the process's own part, as in the released code.

    Logs the terms that have a weight, `itm`, `mlm`, `matching_accuracy`, `temperature`, `alpha`.

    Raises:
        UserError: weights that are not six; in training, a batch with less than two views.
    """

    views, n_views = "tcl", 2

    def __init__(
        self,
        model: FusionModel,
        *,
        temperature: float | None = None,
        momentum: float = 0.995,
        queue_size: int = 65536,
        alpha: float = 0.4,
        ramp_steps: int = 0,
        mask_probability: float = 0.15,
        weights: tuple[float, ...] = (1 / 6,) * 6,
        share_duplicates: bool = True,
    ) -> None:
        super().__init__()
        if len(weights) != 6:
            raise UserError(f"weights are six: i2t, t2i, i2i, t2t, lmi image, lmi text; got {len(weights)}")
        self.model = model
        self.momentum = MomentumContrast(
            model,
            momentum=momentum,
            queue_size=queue_size,
            temperature=temperature,
            alpha=alpha,
            ramp_steps=ramp_steps,
        )
        self.mask_probability = mask_probability
        self.weights = tuple(weights)
        self.share_duplicates = share_duplicates

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        if "views" not in batch or len(batch["views"]) < 2:
            raise UserError("TCL needs two views of each picture: a Loader with n_views=2")
        model, moco, tokens = self.model, self.momentum, batch["text"]
        view, view_m = batch["views"][0], batch["views"][1]
        group = group_of(batch, self.share_duplicates)
        V, T = model.image_tokens(view), model.text_tokens(tokens)
        v, w = unit(model.image_projection(V[:, 0])), unit(model.text_projection(T[:, 0]))
        V_m, T_m, v_m, w_m = moco.teach(view_m, tokens)
        with torch.no_grad():
            l_image = pooled_patches(unit(moco.teacher.module.image_projection(V_m[:, 1:])))
            l_text = unit(moco.teacher.module.text_projection(T_m[:, 1:]))
        mask, tau = tokens["attention_mask"], moco.temperature()

        keys = moco.keys(v_m, w_m, group)
        terms = {
            "i2t": lambda: moco.contrast(v, keys.text, keys.group, teacher_q=v_m),
            "t2i": lambda: moco.contrast(w, keys.image, keys.group, teacher_q=w_m),
            "i2i": lambda: moco.contrast(v, keys.image, keys.group),
            "t2t": lambda: moco.contrast(w, keys.text, keys.group),
            "lmi_image": lambda: global_local_info_nce(v, l_image, temperature=tau, group=group),
            "lmi_text": lambda: global_local_info_nce(w, l_text, mask=mask[:, 1:], temperature=tau, group=group),
        }
        losses = {name: terms[name]() for name, weight in zip(terms, self.weights, strict=True) if weight}
        weights = dict(zip(terms, self.weights, strict=True))
        aligned = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        hard_text, hard_image = moco.hard_negatives(v, w, v_m, w_m, group)
        itm, accuracy = matching_loss(model, V, T, mask, hard_text=hard_text, hard_image=hard_image)
        alpha = moco.alpha_now()
        mlm = masked_language_loss(
            model, moco.teacher.module, tokens, V, V_m, alpha=alpha, probability=self.mask_probability
        )
        logs = {name: loss.detach() for name, loss in {**losses, "itm": itm, "mlm": mlm}.items()}
        logs |= {"matching_accuracy": accuracy, "temperature": tau.detach(), "alpha": torch.tensor(alpha)}
        loss = aligned + itm + mlm
        moco.queue_after(loss, v_m, w_m, group, batch.get("index"))
        return {"loss": loss, **logs}

    def before_step(self) -> None:
        self.momentum.before_step()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.momentum.after_step()


def pooled_patches(patches: Tensor) -> Tensor:
    """Unit patches `[B, P, D]` of a square grid, averaged to 4 x 4 cells `[B, 16, D]`. Cells are not made unit again,
    so their length measures how much their patches agree.

    Takes `patches` in floating point. Raises UserError where P is no square of a multiple of four.
    """
    b, p, d = patches.shape
    side = round(p**0.5)
    if side * side != p or side % CELLS:
        raise UserError(
            f"{p} patches do not make a square that splits into {CELLS} x {CELLS} cells: use a ViT whose "
            f"image size is a multiple of {CELLS} patches"
        )
    grid = patches.transpose(1, 2).reshape(b, d, side, side)
    return adaptive_avg_pool2d(grid, CELLS).flatten(2).transpose(1, 2)
