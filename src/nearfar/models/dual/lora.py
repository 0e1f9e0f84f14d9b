"""Low-rank adapters on a tower, through peft."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nearfar.errors import UserError, need


def add(
    tower: nn.Module, *, rank: int = 8, alpha: float = 16.0, dropout: float = 0.0, targets: Sequence[str] | None = None
) -> None:
    """Freeze `tower` and put adapters beside its linear layers (its plain convolutions if it has no linear layer).

    `targets` names the layers by how their names end: `("q_proj", "v_proj")`.

    Raises:
        UserError: a tower without such layers (EfficientNet-Lite), or no layer of that name.
    """
    peft = need("peft", "adapters")
    names = _linear(tower) or _plain_convolutions(tower)
    if not names:
        kind = type(getattr(tower, "backbone", tower)).__name__
        raise UserError(
            f"adapters fit no layer of {kind}: LoRA adapts linear layers, or plain convolutions (torch's Conv2d in one "
            "group) where there are none; freeze this tower, train it whole, or take another"
        )
    chosen = [name for name in names if not targets or name.endswith(tuple(targets))]
    if not chosen:
        endings = sorted({name.rpartition(".")[2] for name in names})
        raise UserError(f"no layer's name ends in {' or '.join(targets or ['?'])}: choose among {', '.join(endings)}")
    tower.requires_grad_(False)
    transposed = not isinstance(tower.get_submodule(chosen[0]), (nn.Linear, nn.Conv2d))
    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen, fan_in_fan_out=transposed
    )
    peft.inject_adapter_in_model(settings, tower)


def is_adapted(module: nn.Module) -> bool:
    """Whether peft has put adapters beside a layer of `module`."""
    return any(map(is_adapter_layer, module.modules()))


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' matrices `[rank, in]` and `[out, rank]`, floating point, by their names in `model`."""
    return {name: value for name, value in model.state_dict().items() if ".lora_" in name}


def settings_of(tower: nn.Module) -> dict[str, Any] | None:
    """The settings of `add` for adapters that peft has put into `tower` by itself (`peft.get_peft_model`); None where
    there are none.

    Raises:
        UserError: they are not of one kind, so that `add` could not put them in again.
    """
    layers: dict[str, Any] = {name: part for name, part in tower.named_modules() if is_adapter_layer(part)}
    if not layers:
        return None
    kinds = set()
    for part in layers.values():
        for name in part.lora_A:
            plain = abs(part.scaling[name] - part.lora_alpha[name] / part.r[name]) < 1e-9
            plain = plain and not getattr(part, "use_dora", {}).get(name) and not len(part.lora_embedding_A)
            dropout = float(getattr(part.lora_dropout[name], "p", 0.0))
            kinds.add((name, int(part.r[name]), float(part.lora_alpha[name]), dropout, plain))
    name, rank, alpha, dropout, plain = next(iter(kinds))
    if len(kinds) > 1 or name != "default" or not plain:
        raise UserError(
            "adapters of several settings, or of another kind than plain LoRA, cannot be saved with the model: fold "
            "them in first with peft's merge_and_unload()"
        )
    return {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": sorted(layers)}


def _plain_convolutions(tower: nn.Module) -> list[str]:
    """Convolutions in one group that are torch's own: those that pad in a way of their own (EfficientNet-Lite's) are
    others than the adapters that peft puts beside them."""
    return [name for name, module in tower.named_modules() if type(module) is nn.Conv2d and module.groups == 1]


def _linear(tower: nn.Module) -> list[str]:
    """The linear layers by name, GPT-2's among them, which keep their weights transposed. Not those inside torch's own
    attention: it reads their weights and passes an adapter by."""
    from transformers.pytorch_utils import Conv1D

    apart = [name for name, module in tower.named_modules() if isinstance(module, nn.MultiheadAttention)]
    return [
        name
        for name, module in tower.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and name.rpartition(".")[0] not in apart
    ]


def merge(tower: nn.Module) -> None:
    """Fold every adapter of `tower` into the layer it stands beside."""
    layer = need("peft.tuners.tuners_utils", "adapters").BaseTunerLayer
    for parent in list(tower.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, layer):
                module.merge(safe_merge=True)
                setattr(parent, name, module.get_base_layer())


def remove(tower: nn.Module) -> None:
    """Take every adapter of `tower` away: the layers are those that they stood beside, bit for bit."""
    for parent in list(tower.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, module in children:
            if is_adapter_layer(module):
                setattr(parent, name, module.get_base_layer())


@contextmanager
def disabled(tower: nn.Module) -> Iterator[None]:
    """Within this context the adapters of `tower` add nothing."""
    layers: list[Any] = [module for module in tower.modules() if is_adapter_layer(module)]
    # peft has its own mind of what is trained when adapters come back.
    trained = [(weight, weight.requires_grad) for layer in layers for weight in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for weight, is_trained in trained:
            weight.requires_grad_(is_trained)


def is_adapter_layer(module: nn.Module) -> bool:
    """Whether peft has put `module` in the place of a layer."""
    return len(getattr(module, "lora_A", ())) > 0
