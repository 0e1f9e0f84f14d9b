"""What a model's folder says of it, for whoever finds it."""

from __future__ import annotations

from nearfar.adaptation.outcome import DIRECTIONS, KS, Adapted

CARD = """---
library_name: nearfar
tags: [contrastive, image-text, retrieval]
---

# {title}

An image-text model: pictures and texts in one space of {dim} numbers, made from `{start}`.
Adapted to {adapted_to}.

## How well it does

Retrieval on {measured_on}, which took no part in it: recall in %, with 95 % intervals.

| | chance | before | linear ridge map | after |
|---|--:|--:|--:|--:|
{rows}

{warnings}## Use

```python
import nearfar

model = nearfar.load("this/folder")
texts = model.encode_text(model.tokenize(["a red car"]), normalize=True)
```

    nearfar index this/folder pictures/ --out index
    nearfar search "a red car" --index index

## What it is made of

| part | |
|---|---|
| image tower | {image} |
| text tower | {text} |
| pictures | {size} x {size} |
| texts | up to {length} tokens |

The towers keep the licences under which they were published; the figures above are for these data alone.
"""


def model_card(outcome: Adapted, start_name: str) -> str:
    """A Markdown page with the data, the figures and how to load."""
    model = outcome.model
    rows = []
    for direction, words in DIRECTIONS.items():
        for k in KS:
            name = f"{direction}_R@{k}"
            chance = outcome.after.metrics[name].show(outcome.after.metrics[name].chance)
            cells = " | ".join(str(r.metrics[name]) for r in (outcome.before, outcome.ridge, outcome.after))
            rows.append(f"| {words}, R@{k} | {chance} | {cells} |")
    return CARD.format(
        title=f"A model for {outcome.data}",
        dim=model.embed_dim,
        start=start_name,
        adapted_to=outcome.adapted_to,
        measured_on=outcome.measured_on,
        rows="\n".join(rows),
        warnings="".join(f"- {warning}\n" for warning in outcome.warnings()) + "\n" if any(outcome.warnings()) else "",
        image=model.image.spec.get("name") or model.image.spec.get("architecture"),
        text=model.text.spec.get("name") or model.text.spec.get("architecture"),
        size=model.image_size,
        length=model.max_length,
    )
