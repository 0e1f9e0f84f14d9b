"""How many claims of a recorded reproduction are decided: what the table of papers says of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def tally(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims are decided, that is, hold or are reversed; those against a constant and premises apart.

    >>> claims = [{"verdict": v, "premise": p, "constant": False} for v, p in
    ...           (("holds", False), ("not shown", False), ("reversed", False), ("holds", True))]
    >>> tally(claims)
    '2 of 3 decided: 1 holds, 1 reversed; premises: 1 of 1 holds'
    """
    own = [claim for claim in claims if not claim["premise"]]
    constants, compared = _parted(own, "constant")
    premises, _ = _parted(claims, "premise")
    parts = []
    if compared:
        verdicts = Counter(claim["verdict"] for claim in compared)
        counts = {"hold" if verdicts["holds"] > 1 else "holds": verdicts["holds"], "reversed": verdicts["reversed"]}
        words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        decided = sum(counts.values())
        parts.append(f"{decided} of {len(compared)} decided" + (f": {words}" if words else ""))
    for name, some in (("against constants", constants), ("premises", premises)):
        if some:
            holding = sum(claim["verdict"] == "holds" for claim in some)
            parts.append(f"{name}: {holding} of {len(some)} {'holds' if len(some) == 1 else 'hold'}")
    return "; ".join(parts)


def _parted(claims: Sequence[Mapping[str, Any]], mark: str) -> tuple[list[Any], list[Any]]:
    """Those with the mark, and the others."""
    return [c for c in claims if c[mark]], [c for c in claims if not c[mark]]
