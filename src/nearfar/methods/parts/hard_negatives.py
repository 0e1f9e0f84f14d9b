"""Hard negatives by similarity, never of the same id."""

from __future__ import annotations

import torch
from torch import Tensor

from nearfar.errors import UserError


@torch.no_grad()
def sample_hard_negatives(
    similarity: Tensor,
    ids: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    key_ids: Tensor | None = None,
) -> Tensor:
    """For each row one column, drawn with probability `softmax(similarity)` among those of other ids.

    The excluded columns leave before the softmax, not after it: the same distribution, and the weights of a row can
    not all underflow, however sharp the similarities are.

    Args:
        similarity: `[N, M]` logits, divided by the temperature already. Carries no gradient.
        ids: `[N]` long, equal for samples that match one another; by default every sample matches itself alone.
        generator: for draws that can be repeated, on the device of `similarity`.
        key_ids: `[M]` long, the columns' ids; by default the rows'.

    Returns:
        `[N]` long: a column each, or -1 for a row that has no negative (a batch of one, or of duplicates only). Leave
        those rows out of the loss.

    Raises:
        UserError: the ids do not fit the matrix, or a similarity is NaN.

    >>> similarity = torch.tensor([[9.0, 0.0, 5.0], [0.0, 9.0, 5.0], [0.0, 5.0, 9.0]]) / 0.01
    >>> sample_hard_negatives(similarity)
    tensor([2, 2, 1])
    >>> sample_hard_negatives(similarity, ids=torch.tensor([4, 7, 4]))
    tensor([1, 2, 1])
    >>> sample_hard_negatives(torch.zeros(2, 2), ids=torch.tensor([3, 3]))
    tensor([-1, -1])
    """
    rows, columns = similarity.shape
    if ids is None:
        ids = torch.arange(rows, device=similarity.device)
    key_ids = ids if key_ids is None else key_ids
    if (len(ids), len(key_ids)) != (rows, columns):
        raise UserError(
            f"{rows} x {columns} similarities need {rows} ids and {columns} key_ids, not {len(ids)} and {len(key_ids)}"
        )
    logits = similarity.float()
    if bool(logits.isnan().any()):
        raise UserError("similarities hold NaN: the embeddings or the temperature have diverged")
    same = ids[:, None] == key_ids[None, :]
    none = same.all(dim=1)
    # A row without a negative, or of -inf alone, still needs weights that can be drawn from.
    logits = logits.clamp(-1e30, 1e30).masked_fill(same & ~none[:, None], -torch.inf)
    index = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    return index.masked_fill(none, -1)
