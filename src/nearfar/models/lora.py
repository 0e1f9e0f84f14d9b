"""Low-rank adapters on a tower, through peft."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from nearfar.errors import UserError, need


def add(
    tower: nn.Module, *, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: Sequence[str] | None = None
) -> None:
    """Freeze `tower` and put adapters beside its linear layers (its plain convolutions if it has no linear layer).

    `targets` names the layers by how their names end: `("q_proj", "v_proj")`.
    """
    peft = need("peft", "adapters")
    names = [name for name, module in tower.named_modules() if isinstance(module, nn.Linear)] or [
        name for name, module in tower.named_modules() if isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    chosen = [name for name in names if not targets or name.endswith(tuple(targets))]
    if not chosen:
        endings = sorted({name.rpartition(".")[2] for name in names})
        raise UserError(f"no layer's name ends in {' or '.join(targets or ['?'])}: choose among {', '.join(endings)}")
    tower.requires_grad_(False)
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen)
    peft.inject_adapter_in_model(settings, tower)


def merge(tower: nn.Module) -> None:
    """Fold every adapter of `tower` into the layer it stands beside."""
    layer = need("peft.tuners.tuners_utils", "adapters").BaseTunerLayer
    for parent in list(tower.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, layer):
                module.merge(safe_merge=True)
                setattr(parent, name, module.get_base_layer())
