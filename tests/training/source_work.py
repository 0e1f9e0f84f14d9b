"""A run on each kind of source, stopped inside an epoch and resumed, as the tests of resuming start it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from nearfar import train
from nearfar.data import open_source, train_tokenizer
from nearfar.methods.image_text.clip import CLIP
from nearfar.models import create

COUNT, STEPS = 26, 7
KINDS = ("folder", "csv", "jsonl", "parquet", "shards", "stream of shards", "dataset", "stream of a dataset")
WORDS = ("red", "green", "blue", "white", "black")


class Stop(Exception):
    pass


def write(root: Path) -> None:
    """The same pairs in every form; one picture is broken, one has no caption."""
    import datasets

    (root / "photos").mkdir()
    rows = []
    for i in range(COUNT):
        buffer = io.BytesIO()
        Image.new("RGB", (12 + i % 3, 12), (9 * i, 255 - 9 * i, 5 * i)).save(buffer, "PNG")
        data = b"broken" if i == 5 else buffer.getvalue()
        captions = [] if i == 11 else [f"a {WORDS[i % 5]} square", f"number {i}"]
        (root / "photos" / f"{i:02d}.png").write_bytes(data)
        (root / "photos" / f"{i:02d}.txt").write_text("\n".join(captions))
        rows.append({"image": data, "text": captions})
    paths = [{"image": f"photos/{i:02d}.png", "text": row["text"]} for i, row in enumerate(rows)]
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, paths)))
    lines = [f"{row['image']},{row['text'][0] if row['text'] else ''}" for row in paths]
    (root / "t.csv").write_text("image,text\n" + "\n".join(lines) + "\n")
    columns = {key: [row[key] for row in rows] for key in ("image", "text")}
    dataset = datasets.Dataset.from_dict(columns)
    dataset.to_parquet(str(root / "t.parquet"))
    dataset.save_to_disk(root / "dataset", num_shards=2)
    (root / "shards").mkdir()
    for part in range(3):
        with tarfile.open(root / "shards" / f"{part}.tar", "w") as shard:
            for i in range(part, COUNT, 3):
                for ending in ("png", "txt"):
                    shard.add(root / "photos" / f"{i:02d}.{ending}", f"{i:02d}.{ending}")


def source(root: str, kind: str) -> Any:
    import datasets

    datasets.config.HF_DATASETS_CACHE = str(Path(root) / "cache")
    names = {"folder": "photos", "csv": "t.csv", "jsonl": "t.jsonl", "parquet": "t.parquet", "shards": "shards"}
    spec = names.get(kind, "shards" if "shards" in kind else "dataset")
    options = {"streaming": True} if "stream" in kind else {}
    return open_source(Path(root) / spec, **options)


def method() -> CLIP:
    torch.manual_seed(3)
    image = {"model_type": "convnext", "num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    text = {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    tokenizer = train_tokenizer([f"a {word} square number 0 1 2 3 4 5 6 7 8 9" for word in WORDS], 300)
    return CLIP(create(image=image, text=text, tokenizer=tokenizer, image_size=16, embed_dim=8))


def trained(root: str, kind: str, out: str, stop: int, workers: int) -> tuple[dict, int]:
    """Train `STEPS` steps, into the third epoch; with `stop`, stop after that step and go on. Final weights, and what
    was skipped."""
    torch.set_num_threads(1)
    common: dict[str, Any] = {
        "out": out,
        "steps": STEPS,
        "batch_size": 8,
        "lr": 0.01,
        "save_every": 1,
        "eps": 1e-4,
        "workers": workers,
        "progress": False,
        "report": False,
    }
    if stop:
        stopped = method()
        original = type(stopped).after_step

        def after_step(step: int) -> None:
            original(stopped, step)
            if step == stop + 1:  # the step before is saved
                raise Stop

        stopped.after_step = after_step  # type: ignore[method-assign]
        try:
            train(stopped, source(root, kind), **common)
        except Stop:
            pass
        else:
            raise AssertionError("it was not stopped")
    run = train(method(), source(root, kind), resume=bool(stop), **common)
    assert run.skipped is not None
    return {name: value.numpy() for name, value in run.method.state_dict().items()}, run.skipped.count
