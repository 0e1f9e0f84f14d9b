"""SogCLR (arXiv 2202.12387) and iSogCLR (arXiv 2305.11965): contrast of small batches that estimates the contrast with
all data, by a moving average, and in iSogCLR a temperature, for each training sample."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nearfar.data.batches.data_info import DataInfo
from nearfar.losses.functional import global_contrastive
from nearfar.losses.global_contrastive import Inner, SampleState, check_gamma
from nearfar.losses.individual_temperature import TemperatureRule
from nearfar.methods.base import Batch, EmbeddingMethod
from nearfar.methods.parts.pairs import embed_pairs
from nearfar.methods.parts.pending import Pending
from nearfar.methods.parts.sample_table import SampleTable
from nearfar.methods.parts.view_projections import project, together, views_of


class SogCLR(EmbeddingMethod):
    """SogCLR over a model of pictures, in two views of each, or over a model of pictures and texts.

    Needs data that can be counted: a source, or a loader of one, no stream. What is kept of a sample is kept by the
    record's own id, is saved with the method, and is refused for other data.

    Args:
        model: the encoder to train; `.model` is what to evaluate and save. One with `encode_text` is trained on pairs.
        temperature: tau of every sample (paper: 0.1 for pictures alone, 0.01 for pairs).
        gamma: weight of a batch's own mean in a sample's moving average (paper's code: 0.8). The smaller, the nearer to
            the mean over all data, and the staler.
        gamma_epochs: gamma falls from 1 to `gamma` over so many epochs, half a cosine (LibAUC: half of all); 0: it does
            not (paper's code).
        inner: "differences" (paper), "with_positive" (authors' code for pairs) or "similarities" (their code for
            pictures); see `nearfar.losses.GlobalContrastive`.
        exclude_duplicates: leave samples of one `group` out of each other's negatives.

    Logs `objective`, the estimate of what is minimised (the loss has its gradient and another value), and
    `temperature`, the mean over the batch.

    Raises:
        UserError: a setting out of its range; in training, data that cannot be counted, or other data than before.

    Example:
        >>> import torch
        >>> from nearfar.data import Records
        >>> class Identity(nn.Module):
        ...     def encode_image(self, pixels): return pixels
        >>> method = SogCLR(Identity(), temperature=1.0)
        >>> method.begin(DataInfo.of(Records([{"text": "a"}, {"text": "b"}])))
        >>> out = method({"views": torch.eye(2).expand(2, 2, 2), "index": torch.arange(2)})
        >>> round(out["loss"].item(), 4)  # both views of both: the negatives lie 1 below the positive
        -2.0
    """

    validation_views = None
    reads = ("index", "group")
    rule: TemperatureRule | None = None

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.1,
        gamma: float = 0.8,
        gamma_epochs: int = 0,
        inner: Inner = "differences",
        exclude_duplicates: bool = False,
    ) -> None:
        super().__init__()
        check_gamma(gamma, gamma_epochs, "gamma_epochs")
        self.model = model
        self.pairs = hasattr(model, "encode_text")
        self.views, self.n_views, self.validation_views = (None, 1, "none") if self.pairs else ("moco", 2, None)
        self.exclude_duplicates = exclude_duplicates
        # A sample is visited once an epoch.
        settings: dict[str, Any] = {"gamma": gamma, "gamma_visits": gamma_epochs, "rule": self.rule, "inner": inner}
        self.states = SampleStates(2 if self.pairs else 1, temperature, **settings)

    def begin(self, data: DataInfo) -> None:
        super().begin(data)
        if self.rule is not None:
            self.rule.require_reachable(((data.size or 1) - 1) * (1 if self.pairs else 2), data.name)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        if self.pairs:
            image_text = embed_pairs(self.model, batch)
            return {"a": image_text["image"], "b": image_text["text"]}
        large, _ = views_of(batch)
        a, b = together(partial(project, self.model), large[:2])
        return {"a": a, "b": b}

    def objective(self, embeddings: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        group = batch.get("group") if self.exclude_duplicates else None
        return self.states(embeddings["a"], embeddings["b"], batch["index"], group)

    def before_step(self) -> None:
        self.states.forget()

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.states.keep()

    def learned(self) -> dict[str, float]:
        return {"temperature": self.states.mean_temperature()} if self.pairs else {}


class ISogCLR(SogCLR):
    """iSogCLR: SogCLR with a temperature for each sample, which follows the derivative of its loss.

    `method.states.tables[0]` holds them by the records' ids: common samples end with a high one, rare ones with a low
    one, as far as `rho` is small (`nearfar.losses.individual_temperature`).

    Args:
        model: the encoder to train; `.model` is what to evaluate and save. One with `encode_text` is trained on pairs.
        temperature: where each sample's starts (paper: 0.1 for pictures alone, 0.01 for pairs).
        gamma: weight of a batch's own mean in a sample's moving average (paper's code: 0.8).
        gamma_epochs: gamma falls from 1 to `gamma` over so many epochs, half a cosine (LibAUC: half of all); 0: it does
            not (paper's code).
        rho: size of the ball of distributions over an anchor's negatives, below log(m / k) for k of m negatives tied at
            the top. 0.1 to 0.5 on small data; 6 to 8 for millions of pairs.
        temperature_lr: step of a temperature, eta (paper's code: 0.03).
        temperature_epochs: that step falls to 0 over so many epochs, a quarter of a cosine (an option of the paper's
            code); None: it stays.
        share: weight of the new derivative, beta (paper's code: 0.5 to 0.9).
        clip: derivatives are kept within plus and minus this (paper's code: 3 for pictures alone, 5 for pairs).
        bounds: of a temperature (paper's code: 0.05 and 1, for pairs 0.005 and 1).
        inner: "differences" (paper), "with_positive" (authors' code for pairs) or "similarities" (their code for
            pictures); see `nearfar.losses.GlobalContrastive`.
        exclude_duplicates: leave samples of one `group` out of each other's negatives.

    Raises:
        UserError: as for `SogCLR`; a rho that no sample of the data can reach.

    Example:
        >>> import torch
        >>> class Identity(nn.Module):
        ...     def encode_image(self, pixels): return pixels
        >>> ISogCLR(Identity(), rho=0.2).rule.rho
        0.2
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        temperature: float = 0.1,
        gamma: float = 0.8,
        gamma_epochs: int = 0,
        rho: float = 0.3,
        temperature_lr: float = 0.03,
        temperature_epochs: int | None = None,
        share: float = 0.9,
        clip: float | None = 3.0,
        bounds: tuple[float, float] = (0.05, 1.0),
        inner: Inner = "differences",
        exclude_duplicates: bool = False,
    ) -> None:
        limits = (bounds[0], bounds[1])
        self.rule = TemperatureRule(
            rho=rho, lr=temperature_lr, share=share, clip=clip, bounds=limits, visits=temperature_epochs
        )
        super().__init__(
            model,
            temperature=temperature,
            gamma=gamma,
            gamma_epochs=gamma_epochs,
            inner=inner,
            exclude_duplicates=exclude_duplicates,
        )


class SampleStates(nn.Module):
    """What is kept of each training sample, by its id: a `SampleTable` for each side, the loss that reads them, and
    what it leaves for after the step.

    Args:
        sides: 2 for two modalities, 1 for two views of one.
        temperature: where each sample's starts.
        settings: of `nearfar.losses.functional.global_contrastive`.
    """

    def __init__(self, sides: int, temperature: float, **settings: Any) -> None:
        super().__init__()
        first = {name: value[0] for name, value in SampleState.fresh(1, temperature)._asdict().items()}
        self.tables = nn.ModuleList(SampleTable(**first) for _ in range(sides))
        self.temperature, self.settings = temperature, settings
        self._pending: Pending[tuple[Tensor, tuple[SampleState, ...]]] = Pending()

    def forward(self, a: Tensor, b: Tensor, index: Tensor, group: Tensor | None = None) -> dict[str, Tensor]:
        """Loss, `objective` and the samples' mean `temperature` of embeddings `a`, `b` `[B, D]`, floating point, of the
        samples `index` `[B]` int64. In evaluation the samples are others, and each is met for the first time.

        Raises:
            UserError: a sample that the training data do not have.
        """
        states = self._known(index) if self.training else self._new(len(index))
        # A record that stands in for a broken one may come twice in a batch: it is no negative of itself.
        out = global_contrastive(a, b, states, group=index if group is None else group, **self.settings)
        if self.training:
            self._pending.after_backward(out.loss, (index, out.states))
        tau = torch.stack([state.temperature.mean() for state in states]).mean()
        return {"loss": out.loss, "objective": out.objective, "temperature": tau}

    def forget(self) -> None:
        """Drop what a step left that was not taken."""
        self._pending.take()

    def keep(self) -> None:
        """Write what the step left into the tables."""
        for index, states in self._pending.take():
            for table, state in zip(self.tables, states, strict=True):
                table.write(index, gather=False, **state._asdict())  # type: ignore[operator]

    def mean_temperature(self) -> float:
        """Over all samples and sides."""
        means = [table.get_buffer("temperature").mean() for table in self.tables if len(table)]  # type: ignore[arg-type]
        return float(torch.stack(means).mean()) if means else self.temperature

    def _known(self, index: Tensor) -> tuple[SampleState, ...]:
        return tuple(
            SampleState(*(table.read(column, index) for column in SampleState._fields))  # type: ignore[operator]
            for table in self.tables
        )

    def _new(self, count: int) -> tuple[SampleState, ...]:
        like = self.tables[0].get_buffer("log_mean")
        return (SampleState.fresh(count, self.mean_temperature(), like=like),) * len(self.tables)
