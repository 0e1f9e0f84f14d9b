"""One step of the optimiser: from batches to gradients, from gradients to new weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nearfar import distributed as processes
from nearfar.data.batches.batch import size
from nearfar.methods.base import Batch
from nearfar.models.towers.linear_layers import linear_layers
from nearfar.training.loop import guard
from nearfar.training.loop.gradients import KeptGraphs, backward, total_norm
from nearfar.training.loop.log import LogRow
from nearfar.training.loop.optim import set_lr
from nearfar.training.loop.precision import autocast_for
from nearfar.training.state.run_state import RunState


class OptimizerStep:
    """Takes steps of a run.

    Args:
        state: the run; its `step`, weights, optimiser, scaler and moving average change with each call.
        steps: of the whole run, for the schedule of the learning rate.
        out: the run folder, where the ids of a batch are written whose loss is not finite.
    """

    def __init__(self, state: RunState, *, steps: int, out: Path | None) -> None:
        self.state, self.config, self.steps, self.out = state, state.config, steps, out
        self.parameters = [p for p in state.method.parameters() if p.requires_grad]
        self.graphs = KeptGraphs()
        self.autocast = autocast_for(next(state.method.parameters()).device, state.config.precision)

    def __call__(self, used: list[Batch]) -> LogRow:
        """One step on the batches `used` as on one of all their samples. Returns the row to log.

        Raises:
            NotFinite: the loss or the gradient is NaN or infinite.
        """
        run, method, epoch = self.state, self.state.method, self.state.batches.epoch
        method.before_step()
        set_lr(run.optimizer, run.step, self.steps, self.config)
        run.optimizer.zero_grad(set_to_none=True)
        shares = shares_of(used, self.parameters[0].device)
        # Around the backward pass, too: checkpointed blocks compute again there.
        with linear_layers(method, self.config.linear_layers):
            outputs = [
                backward(
                    method,
                    batch,
                    chunk=self.config.chunk,
                    autocast=self.autocast(),
                    scale=partial(self._scale, share=share),
                    seed=self.config.seed * 1_000_003 + run.step,
                    graphs=self.graphs,
                )
                for batch, share in zip(used, shares, strict=True)
            ]
        processes.average_gradients(self.parameters)
        scalars = processes.mean({name: _mean([o[name] for o in outputs], shares) for name in outputs[0]})
        norm, taken = self._update(used, scalars)
        run.step += 1
        if taken:
            method.after_step(run.step)
            if run.average:
                run.average.update(method)
            if run.dense:
                run.dense.update(method)
        values = dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True))
        lr = run.optimizer.param_groups[0]["lr"]
        return {"step": run.step, "epoch": epoch, **values, "grad_norm": norm, "lr": lr}

    def _scale(self, loss: Tensor, share: float) -> Tensor:
        return (self.state.scaler.scale(loss) if self.state.scaler else loss) * share

    def _update(self, used: list[Batch], scalars: dict[str, Tensor]) -> tuple[float, bool]:
        """Check, clip and apply the gradient. Its norm before clipping, and whether the step was taken: a loss scaler
        skips one whose gradient is infinite."""
        optimizer, scaler = self.state.optimizer, self.state.scaler
        if scaler:
            scaler.unscale_(optimizer)
        norm = total_norm(self.parameters)
        loss, size_of_gradient = torch.stack([scalars["loss"].float(), norm.float()]).tolist()
        # To a loss scaler an infinite gradient means that its scale is too large: it skips the step and lowers it.
        if not (guard.finite(loss) and (scaler or guard.finite(size_of_gradient))):
            values = {name: value.item() for name, value in scalars.items()}
            guard.stop(self.state.step + 1, values, size_of_gradient, used, self.out)
        if self.config.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_norm, norm)
        if not scaler:
            optimizer.step()
            return size_of_gradient, True
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        return size_of_gradient, scaler.get_scale() >= scale  # lowered if, and only if, it skipped


def shares_of(used: Sequence[Batch], device: torch.device | str = "cpu") -> list[float]:
    """What each batch's mean weighs in the mean over the samples of all: its share of them, on all ranks together.

    >>> shares_of([{"index": torch.arange(3)}, {"index": torch.arange(1)}])
    [0.75, 0.25]
    """
    if len(used) == 1:
        return [1.0]
    sizes = {str(i): torch.tensor(float(size(batch)), device=device) for i, batch in enumerate(used)}
    everywhere = torch.stack(list(processes.mean(sizes).values()))
    return (everywhere / everywhere.sum()).tolist()


def _mean(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([value.float() * share for value, share in zip(values, shares, strict=True)]).sum()
