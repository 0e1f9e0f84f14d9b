"""Training on pairs of texts beside sentence-transformers' own trainer and loss: the same MiniLM, pairs, batch, steps,
rate and schedule, each written as its library's documents write it.

    .venv/bin/python benchmarks/beside_sentence_transformers.py

Each seed trains once with each library, in turn. What is timed is the whole call that trains: batches, tokens, towers,
loss, optimiser, log. Both models are then measured by the same code on test pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from _measure import ratios, spread
from _shim import import_torchvision
from nearfar import files, load
from nearfar.data import world
from nearfar.evaluation.language.pair_retrieval import pair_retrieval
from nearfar.methods import SimCSE
from nearfar.models import text_encoder
from nearfar.training import TrainConfig, train

RECORD = Path(__file__).parent / "results" / "beside_sentence_transformers.json"
LIBRARIES = ("nearfar", "sentence-transformers")
SCALE, RATE, WARMUP = 20.0, 5e-5, 0.1
FIGURE = "first_to_second_MRR"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model", default="minilm", help="a text encoder of nearfar, or a folder that holds one")
    parser.add_argument("--output", type=Path, default=RECORD)
    args = parser.parse_args()
    if find_spec("torchvision"):
        import_torchvision()  # before transformers looks for it
    torch.set_num_threads(args.threads)
    record = compared(args)
    files.write(args.output, json.dumps(record, indent=1) + "\n")
    files.write(args.output.with_suffix(".md"), as_markdown(record))
    print(as_markdown(record))


def compared(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each library's training, and what its model reaches, seed by seed; the first of all is untimed."""
    cpu_s: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    clock_s: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    figures: dict[str, list[float]] = {library: [] for library in LIBRARIES}
    test = world.words("test")
    with tempfile.TemporaryDirectory() as folder:
        start = str(Path(folder) / "start")
        encoder = text_encoder(args.model) if not Path(args.model).is_dir() else load(args.model)
        encoder.save_pretrained(start)
        before = pair_retrieval(load(start), test)[FIGURE]
        for library in LIBRARIES:
            trainer(library, start, folder, 0, 2, args.batch)()
        for place, seed in enumerate(args.seeds):
            for library in LIBRARIES if place % 2 else reversed(LIBRARIES):
                run = trainer(library, start, folder, seed, args.steps, args.batch)
                cpu, clock = time.process_time(), time.perf_counter()
                trained = run()
                cpu_s[library].append(time.process_time() - cpu)
                clock_s[library].append(time.perf_counter() - clock)
                figures[library].append(pair_retrieval(trained(), test)[FIGURE])
    return {
        "steps": args.steps,
        "batch": args.batch,
        "seeds": args.seeds,
        "threads": args.threads,
        "model": args.model,
        "torch": torch.__version__,
        "sentence_transformers": version("sentence-transformers"),
        "load": os.getloadavg()[0],
        "cpu_s": cpu_s,
        "clock_s": clock_s,
        "before": before,
        FIGURE: figures,
    }


Train = Callable[[], Callable[[], Any]]
"""Trains, and returns what gives the trained encoder."""


def trainer(library: str, start: str, folder: str, seed: int, steps: int, batch: int) -> Train:
    make = _nearfar if library == "nearfar" else _sentence_transformers
    return make(start, folder, seed, steps, batch)


def _nearfar(start: str, folder: str, seed: int, steps: int, batch: int) -> Train:
    pairs = world.words("train")
    method = SimCSE(load(start), head="none", temperature=1 / SCALE)
    config = TrainConfig(
        steps=steps, batch_size=batch, lr=RATE, betas=(0.9, 0.999), weight_decay=0.0, schedule="linear", warmup=WARMUP,
        clip_norm=1.0, seed=seed, device="cpu", progress=False, report=False,
    )  # fmt: skip

    def run() -> Callable[[], Any]:
        train(method, pairs, config=config)
        return lambda: method.model.eval()

    return run


def _sentence_transformers(start: str, folder: str, seed: int, steps: int, batch: int) -> Train:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    records = [record for record in world.words("train") if record.get("text2")]
    pairs = Dataset.from_dict({"anchor": [r["text"] for r in records], "positive": [r["text2"] for r in records]})
    model = SentenceTransformer(start, device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(Path(folder) / "out"), max_steps=steps, per_device_train_batch_size=batch, learning_rate=RATE,
        weight_decay=0.0, lr_scheduler_type="linear", warmup_steps=round(WARMUP * steps), max_grad_norm=1.0, seed=seed,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, logging_steps=10,
    )  # fmt: skip
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    made = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=loss)

    def run() -> Callable[[], Any]:
        made.train()
        return back

    def back() -> Any:
        model.save(str(Path(folder) / "trained"))
        return load(str(Path(folder) / "trained"))

    return run


def as_markdown(record: dict[str, Any]) -> str:
    lines = [
        "{steps} steps of {batch} pairs of texts, {model}, float32, {threads} thread(s), torch {torch}, "
        "sentence-transformers {sentence_transformers}, load average {load:.1f}.".format(**record),
        "",
        "| library | seeds | pairs a CPU second | CPU seconds to sentence-transformers', seed by seed | on the clock | "
        f"MRR on test pairs (before: {record['before']:.3f}) |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    peer = LIBRARIES[1]
    for library in LIBRARIES:
        cpu, clock, figures = record["cpu_s"][library], record["clock_s"][library], record[FIGURE][library]
        rate = median(record["steps"] * record["batch"] / seconds for seconds in cpu)
        beside = [spread(ratios(cpu, record["cpu_s"][peer])), spread(ratios(clock, record["clock_s"][peer]))]
        if library == peer:
            beside = ["1", "1"]
        lines.append(
            f"| {library} | {len(cpu)} | {rate:.0f} | {' | '.join(beside)} | "
            f"{mean(figures):.3f} ({min(figures):.3f} to {max(figures):.3f}) |"
        )
    return "\n".join([*lines, "", "    python benchmarks/beside_sentence_transformers.py", ""])


if __name__ == "__main__":
    main()
