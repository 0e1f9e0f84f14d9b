"""ALBEF (arXiv 2107.07651): align the two modalities by contrast before fusing them, and learn from a momentum teacher.

    L = L_itc + L_itm + L_mlm

Image-text contrast (ITC) against momentum features and a queue; image-text matching (ITM) of the fused pair, with
negatives that the contrast finds hard; masked language modelling (MLM) with the picture in view. Momentum distillation
(MoD) mixes the teacher's own predictions into the targets of ITC and MLM, by alpha.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.losses.groups import unit
from nearfar.methods.base import Batch, Method
from nearfar.methods.parts.matching import masked_language_loss, matching_loss
from nearfar.methods.parts.momentum_contrast import MomentumContrast, group_of
from nearfar.models.fusion.fusion_model import FusionModel


class ALBEF(Method):
    """ALBEF over a `FusionModel`.

    Args:
        model: the dual encoder with its fusion encoder; `.model` is what to evaluate, save, and re-rank with.
        temperature: initial tau, a learned divisor kept within (0.001, 0.5). None: the model's own, if it was trained
            before, else the paper's 0.07.
        momentum: of the teacher (paper: 0.995).
        queue_size: features kept a modality (paper: 65,536); 0 for none.
        alpha: the teacher's share of the targets (paper: 0.4); 0 switches distillation off.
        ramp_steps: steps over which alpha grows from 0 (paper: the first epoch).
        mask_probability: share of tokens hidden for MLM (paper: 0.15).
        contrast: whether ITC is trained; without it ITM's negatives are drawn evenly.
        hard_negatives: draw ITM's negatives by similarity (paper), or evenly.
        easy_steps: steps at the start whose negatives are drawn evenly all the same (paper: 0). Where the towers are
            pretrained and the fusion layers are not, the contrast finds hard negatives before the matching head can
            tell any: it may then stay at chance.
        share_duplicates: samples of one `group` share ITC's target and are never drawn as negatives. The paper does so
            in fine-tuning only, and takes duplicates for negatives in pre-training.

    With several processes a step is that of one process with the whole batch, but for the draw of ITM's negatives:
    those are of the process's own part, as in the released code, since a drawn picture is all of its tokens.

    Logs `itc`, `itm`, `mlm`, `matching_accuracy`, `temperature`, `alpha`.
    """

    views = "albef"

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
        contrast: bool = True,
        hard_negatives: bool = True,
        easy_steps: int = 0,
        share_duplicates: bool = True,
    ) -> None:
        super().__init__()
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
        self.contrast, self.share_duplicates = contrast, share_duplicates
        self.hard_negatives, self.easy_steps = contrast and hard_negatives, easy_steps

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        model, tokens = self.model, batch["text"]
        group = group_of(batch, self.share_duplicates)
        V, T = model.image_tokens(batch["image"]), model.text_tokens(tokens)
        v, w = unit(model.image_projection(V[:, 0])), unit(model.text_projection(T[:, 0]))
        V_m, _, v_m, w_m = self.momentum.teach(batch["image"], tokens)

        losses = {}
        tau = self.momentum.temperature()
        if self.contrast:
            keys = self.momentum.keys(v_m, w_m, group)
            losses["itc"] = (
                self.momentum.contrast(v, keys.text, keys.group, teacher_q=v_m)
                + self.momentum.contrast(w, keys.image, keys.group, teacher_q=w_m)
            ) / 2
        evenly = not self.hard_negatives or int(self.momentum.steps) < self.easy_steps
        hard_text, hard_image = self.momentum.hard_negatives(v, w, v_m, w_m, group, evenly=evenly)
        losses["itm"], accuracy = matching_loss(
            model, V, T, tokens["attention_mask"], hard_text=hard_text, hard_image=hard_image
        )
        alpha = self.momentum.alpha_now()
        losses["mlm"] = masked_language_loss(
            model, self.momentum.teacher.module, tokens, V, V_m, alpha=alpha, probability=self.mask_probability
        )
        logs = {name: loss.detach() for name, loss in losses.items()}
        logs |= {"matching_accuracy": accuracy, "temperature": tau.detach(), "alpha": torch.tensor(alpha)}
        loss = torch.stack(list(losses.values())).sum()
        if self.contrast:
            self.momentum.queue_after(loss, v_m, w_m, group, batch.get("index"))
        return {"loss": loss, **logs}

    def before_step(self) -> None:
        self.momentum.before_step()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.momentum.after_step()
