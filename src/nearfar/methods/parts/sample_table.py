"""A table with a row for each training sample: temperatures, moving averages, last losses, kept by its id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nearfar import distributed as processes
from nearfar import lookup
from nearfar.data.batches.data_info import DataInfo
from nearfar.errors import UserError
from nearfar.methods.base import DataPart


class SampleTable(DataPart):
    """Values of each training sample by its id (the batch's `index`), as SogCLR's and iSogCLR's u are. All of it is
    buffers, so it resumes and moves with the method.

    Its rows are made in `begin`, for the ids that the data really have: of a filtered source those of its own records,
    whatever their order, on any number of processes. Write in `after_step`, never in `forward`; what a forward pass
    has to write waits in a `Pending`.

    Args:
        columns: the first value of each: a number for a column `[N]`, a tensor of shape S for one `[N, *S]`.

    >>> from nearfar.data import Records
    >>> table = SampleTable(u=0.5)
    >>> table.begin(DataInfo.of(Records([{"text": t} for t in "abcdef"]).filter(lambda r: r["text"] > "c")))
    >>> table.write(torch.tensor([5, 3]), u=torch.tensor([0.1, 0.2]))
    >>> table.read("u", torch.tensor([3, 4, 5])), len(table)
    (tensor([0.2000, 0.5000, 0.1000]), 3)
    """

    ids: Tensor
    data_size: Tensor
    data_fingerprint: Tensor

    def __init__(self, **columns: float | Tensor) -> None:
        super().__init__()
        if taken := columns.keys() & {"ids", "data_size", "data_fingerprint"}:
            raise UserError(f"a table cannot have a column {min(taken)!r}: give it another name")
        self._first = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in columns.items()}
        self.register_buffer("ids", torch.zeros(0, dtype=torch.long))
        self.register_buffer("data_size", torch.zeros((), dtype=torch.long))
        self.register_buffer("data_fingerprint", torch.zeros((), dtype=torch.long))
        self._make_rows(0)

    def __len__(self) -> int:
        return len(self.ids)

    def begin(self, data: DataInfo) -> None:
        """A row for each id of the data; rows that are of these data already keep their values.

        Raises:
            UserError: the data cannot be counted, or an id comes twice.
        """
        ids = data.require_ids("A table by sample").sort().values.to(self.ids.device)
        if torch.equal(ids, self.ids) and int(self.data_fingerprint) == data.fingerprint:
            return
        self.ids = ids
        self.data_size.fill_(len(ids))
        self.data_fingerprint.fill_(data.fingerprint)
        self._make_rows(len(ids))

    def read(self, column: str, ids: Tensor) -> Tensor:
        """The values `[B, ...]`, in the column's dtype, of the samples `ids` `[B]` int64.

        Raises:
            UserError: no such column, or a sample that the data do not have.
        """
        return self._column(column)[self._rows(ids)]

    @torch.no_grad()
    def write(self, ids: Tensor, *, gather: bool = True, **values: Tensor) -> None:
        """Replace the values of these samples; every process ends with the same table. An id that comes twice takes
        its first values.

        Args:
            ids: `[B]` long.
            gather: whether each process brings its own samples; False where all bring the whole batch, as from an
                objective that gathers.
            values: by column, `[B, ...]`.

        Raises:
            UserError: no such column, an unknown sample, another number of values, or a value that is NaN or infinite.
                The table then stays as it was.
        """
        for name, value in values.items():
            if len(value) != len(ids):
                raise UserError(f"{len(value)} values of {name!r} for {len(ids)} samples")
        if gather:
            ids, values = processes.gather_rows(ids), {k: processes.gather_rows(v) for k, v in values.items()}
        _, where, times = ids.unique(return_inverse=True, return_counts=True)
        # A stable sort by id: the first place of each is where its run begins.
        once = where.argsort(stable=True)[times.cumsum(0) - times]
        rows = self._rows(ids[once])
        new = {name: value.detach()[once].to(self._column(name)) for name, value in values.items()}
        for name, value in new.items():
            bad = ~value.flatten(1).isfinite().all(1) if value.ndim > 1 else ~value.isfinite()
            if bool(bad.any()):
                bad_ids = ", ".join(map(str, ids[once][bad][:10].tolist()))
                raise UserError(
                    f"values of {name!r} for samples {bad_ids} are NaN or infinite, and would stay in the table"
                )
        for name, value in new.items():
            self._column(name)[rows] = value

    def check_state(self, state: Mapping[str, Tensor], prefix: str) -> None:
        """Refuse a table of other data. Raises UserError with both sizes or fingerprints."""
        if not len(self) or f"{prefix}ids" not in state:
            return
        for what, name in (("size", "data_size"), ("fingerprint", "data_fingerprint")):
            theirs, mine = int(state[prefix + name]), int(getattr(self, name))
            if theirs != mine:
                saved, now = (f"{theirs:x}", f"{mine:x}") if what == "fingerprint" else (f"{theirs:,}", f"{mine:,}")
                raise UserError(
                    f"the saved table by sample is of other data: their {what} was {saved} and now is {now}; go on "
                    "with the data that the run began with, or begin a new run"
                )
        if not torch.equal(state[f"{prefix}ids"].to(self.ids.device), self.ids):
            raise UserError("the saved table by sample is of other ids: go on with the data that the run began with")

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if not len(self) and f"{prefix}ids" in state_dict:  # not begun: it takes the rows that were saved
            self.ids = torch.zeros_like(state_dict[f"{prefix}ids"], device=self.ids.device)
            self._make_rows(len(self.ids))
            for name in ("ids", "data_size", "data_fingerprint"):
                self.get_buffer(name).copy_(state_dict[prefix + name])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _make_rows(self, count: int) -> None:
        for name, first in self._first.items():
            self.register_buffer(name, first.to(self.ids.device).expand(count, *first.shape).clone())

    def _column(self, name: str) -> Tensor:
        lookup.check("column", [name], self._first, where="table by sample: ")
        return self.get_buffer(name)

    def _rows(self, ids: Tensor) -> Tensor:
        if not len(self):
            raise UserError("the table has no rows yet: call begin(data) of the method first, as nearfar.train does")
        rows = torch.searchsorted(self.ids, ids.contiguous()).clamp_(max=len(self) - 1)
        if unknown := ids[self.ids[rows] != ids][:5].tolist():
            unknown_ids = ", ".join(map(str, unknown))
            raise UserError(
                f"samples {unknown_ids} are not in the data that the table was made for: their 'index' must be"
            )
        return rows
