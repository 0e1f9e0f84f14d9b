"""Embedding by torch and by onnxruntime: a text, many texts, a picture, many pictures, of one model and its export.

    python benchmarks/onnx_embedding.py                   # needs `pip install "nearfar[onnx]"`

Both run in turn within each round, on the same number of threads, from prepared tokens and pixels on: tokenizing and
resizing are the same code. Each time is the mean of so many calls that a call of one input is timed well. The
embeddings are compared first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from _measure import interleave, ratios, spread
from nearfar import files, load
from nearfar.data import load_image, world
from nearfar.export.onnx_towers import export_onnx

RESULTS = Path(__file__).parent / "results" / "onnx_embedding.json"
TORCH, ONNX = "torch", "onnxruntime"
CALLS = 64
"""Inputs of each kind that a round embeds, in as many calls as their batches take."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="starter", help="a folder or a name, as `nearfar export` takes it")
    parser.add_argument("--texts", type=int, default=64, help="texts of a batch")
    parser.add_argument("--pictures", type=int, default=64, help="pictures of a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = load(options.model)
        export_onnx(model, Path(folder, "exported"), name=options.model)
        rows = measured(options, {TORCH: model, ONNX: load(Path(folder, "exported"))})
    record = {
        "model": options.model,
        "threads": options.threads,
        "rounds": options.rounds,
        "torch": version("torch"),
        "onnxruntime": version("onnxruntime"),
        "load": os.getloadavg()[0],
        "command": "python benchmarks/onnx_embedding.py" + "".join(f" {word}" for word in sys.argv[1:]),
        "rows": rows,
    }
    files.write(options.output, json.dumps(record, indent=1) + "\n")
    files.write(options.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def measured(options: argparse.Namespace, models: dict[str, Any]) -> list[dict[str, Any]]:
    records = list(islice(world.emoji("val"), max(options.texts, options.pictures)))
    model = models[TORCH]
    tokens = model.tokenize([record["text"][0] for record in records[: options.texts]])
    pixels = model.preprocess([load_image(record["image"]) for record in records[: options.pictures]])
    first = model.tokenize([records[0]["text"][0]])
    cases: dict[str, tuple[int, Callable[[Any], Tensor]]] = {
        "1 text": (1, lambda made: made.encode_text(first, normalize=True)),
        f"{options.texts} texts": (options.texts, lambda made: made.encode_text(tokens, normalize=True)),
        "1 picture": (1, lambda made: made.encode_image(pixels[:1], normalize=True)),
        f"{options.pictures} pictures": (options.pictures, lambda made: made.encode_image(pixels, normalize=True)),
    }
    return [row(what, models, *case, rounds=options.rounds) for what, case in cases.items()]


def row(what: str, models: dict[str, Any], size: int, embed: Callable[[Any], Tensor], *, rounds: int) -> dict[str, Any]:
    """The times of one kind of batch, and the greatest difference of a number."""
    calls = max(1, CALLS // size)

    def run(made: Any) -> Callable[[], None]:
        @torch.inference_mode()
        def repeated() -> None:
            for _ in range(calls):
                embed(made)

        return repeated

    with torch.inference_mode():
        difference = (embed(models[TORCH]) - embed(models[ONNX])).abs().max().item()
    timings = interleave({name: run(made) for name, made in models.items()}, TORCH, rounds)
    return {
        "what": what,
        "difference": difference,
        "calls": calls,
        "cpu_s": {name: [seconds / calls for seconds in each.cpu_rounds] for name, each in timings.items()},
        "cpu_ratio": ratios(timings[ONNX].cpu_rounds, timings[TORCH].cpu_rounds),
    }


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        "Model {model}, {threads} thread(s), {rounds} rounds, torch {torch}, onnxruntime {onnxruntime}, load average "
        "{load:.1f}.".format(**record),
        "",
        "| a call | torch, CPU ms | onnxruntime | to torch, round by round | greatest difference of a number |",
        "|:--|--:|--:|--:|--:|",
    ]
    for each in record["rows"]:
        own, other = (1000 * sorted(each["cpu_s"][name])[len(each["cpu_s"][name]) // 2] for name in (TORCH, ONNX))
        ratio = spread(each["cpu_ratio"])
        lines.append(f"| {each['what']} | {own:.1f} | {other:.1f} | {ratio} | {each['difference']:.1e} |")
    return "\n".join([*lines, "", f"    {record['command']}", ""])


if __name__ == "__main__":
    main()
