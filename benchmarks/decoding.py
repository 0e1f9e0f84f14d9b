"""What contrastive search costs beside greedy search, and beside an implementation that copies the cache k times.

    OMP_NUM_THREADS=2 python benchmarks/decoding.py            # all settings; about 25 minutes on 2 cores
    OMP_NUM_THREADS=1 python benchmarks/decoding.py --quick    # a look at the ratios in two minutes

All arms take turns in every round, so that whatever else the machine does falls on all of them; a figure is the median
over rounds of CPU seconds (and of wall seconds) a token, prompt left out, and a ratio that of one round. Before timing,
the first tokens are compared with those of the model in float64. Memory is the peak that torch allocated for tensors in
one run beyond what was held before it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from _measure import ratios, spread
from nearfar.decoding import contrastive_search

RESULTS = Path(__file__).parent / "results" / "decoding.json"
ALPHA = 0.6


def copying_reference(model: Any, ids: Tensor, *, k: int, steps: int) -> Tensor:
    """Contrastive search as it is usually written: repeat the cache k times, run k rows, select one of each k."""
    out = model(input_ids=ids, use_cache=True, output_hidden_states=True, logits_to_keep=1)
    cache, context, logits = out.past_key_values, out.hidden_states[-1], out.logits[:, -1]
    for _ in range(steps):
        probs, candidates = logits.softmax(-1).topk(k)
        cache.batch_repeat_interleave(k)
        out = model(
            input_ids=candidates.reshape(-1, 1), past_key_values=cache, use_cache=True, output_hidden_states=True
        )
        hidden = out.hidden_states[-1].view(len(ids), k, -1)
        cosine = normalize(context, dim=-1) @ normalize(hidden, dim=-1).transpose(1, 2)
        choice = ((1 - ALPHA) * probs - ALPHA * cosine.amax(1)).argmax(1)
        rows = torch.arange(len(ids)) * k + choice
        cache.batch_select_indices(rows)
        ids = torch.cat([ids, candidates.gather(1, choice[:, None])], 1)
        context = torch.cat([context, hidden[torch.arange(len(ids)), choice][:, None]], 1)
        logits = out.logits[rows, -1]
    return ids


def arms(model: Any) -> dict[str, Callable[[Tensor, int], Tensor]]:
    def greedy(ids: Tensor, steps: int) -> Tensor:
        return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False)

    def ours(k: int) -> Callable[[Tensor, int], Tensor]:
        return lambda ids, steps: contrastive_search(
            model, ids, attention_mask=torch.ones_like(ids), k=k, alpha=ALPHA, max_new_tokens=steps
        )

    def reference(k: int) -> Callable[[Tensor, int], Tensor]:
        return lambda ids, steps: copying_reference(model, ids, k=k, steps=steps)

    return {"greedy": greedy, "ours k=4": ours(4), "ours k=8": ours(8), "copying k=4": reference(4)}


@torch.no_grad()
def compare(model: Any, *, prompt: int, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Median seconds a token of every arm, and the median over rounds of its ratio to greedy search."""
    vocabulary = model.config.vocab_size
    ids = torch.randint(3, vocabulary, (batch, prompt), generator=torch.Generator().manual_seed(0))
    contestants = arms(model)
    check(model, contestants, ids, min(steps, 8))
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            # the difference of a long and a short run leaves out the prompt and what a call costs once
            short, long = timed(run, ids, 2), timed(run, ids, 2 + steps)
            cpu[name].append((long[0] - short[0]) / steps)
            wall[name].append((long[1] - short[1]) / steps)
    report: dict[str, Any] = {"prompt": prompt, "batch": batch, "tokens": steps, "rounds": rounds, "arms": {}}
    for name, run in contestants.items():
        report["arms"][name] = {
            "cpu_ms": 1000 * statistics.median(cpu[name]),
            "wall_ms": 1000 * statistics.median(wall[name]),
            "tokens_per_second": batch / statistics.median(wall[name]),
            "cpu_to_greedy": ratios(cpu[name], cpu["greedy"]),
            "wall_to_greedy": ratios(wall[name], wall["greedy"]),
            "peak_mib": peak_memory(run, ids, steps),
        }
    report["copying_to_ours_k4_cpu"] = ratios(cpu["copying k=4"], cpu["ours k=4"])
    report["copying_to_ours_k4_wall"] = ratios(wall["copying k=4"], wall["ours k=4"])
    return report


def check(model: Any, contestants: dict[str, Callable[[Tensor, int], Tensor]], ids: Tensor, steps: int) -> None:
    """Stop unless the arms at k = 4 write what the plain form writes in float64."""
    exact = copying_reference(copy.deepcopy(model).double(), ids, k=4, steps=steps)
    for name in ("ours k=4", "copying k=4"):
        if not torch.equal(contestants[name](ids, steps), exact):
            raise SystemExit(f"{name} writes other tokens than float64: not timed")


def timed(run: Callable[[Tensor, int], Tensor], ids: Tensor, steps: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    run(ids, steps)
    return time.process_time() - cpu, time.perf_counter() - wall


def peak_memory(run: Callable[[Tensor, int], Tensor], ids: Tensor, steps: int) -> float:
    """MiB of tensors alive at the worst moment of a run, beyond those alive before."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(ids, steps)
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak / 2**20


def random_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, eos_token_id=None, bos_token_id=1, pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def smollm() -> Any:
    from nearfar.models.language import language_model

    model = language_model("smollm2").lm
    model.generation_config.eos_token_id = None  # every arm writes the same number of tokens
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and settings; nothing is recorded")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--tokens", type=int, default=32, help="that are written")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    quick = options.quick
    steps, rounds, batches = (12, 3, [1]) if quick else (options.tokens, options.rounds, options.batch)
    report: dict[str, Any] = {
        "command": f"OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/decoding.py " + " ".join(sys.argv[1:]),
        "load_average": os.getloadavg()[0],
        "rounds": rounds,
        "tokens": steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "models": {},
    }
    for name, make in {"SmolLM2-135M": smollm, "random, 30M": random_model}.items():
        model = make()
        rows = report["models"][name] = []
        for batch in batches:
            for prompt in options.prompt:
                rows.append(compare(model, prompt=prompt, batch=batch, steps=steps, rounds=rounds))
                show(name, rows[-1])
    if not quick:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")
        options.output.with_suffix(".md").write_text(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    """The table that the docs hold."""
    lines = [
        f"`{report['command']}`, torch {report['torch']}, {report['threads']} threads, {report['rounds']} rounds, load "
        f"average {report['load_average']:.1f}; {report['tokens']} tokens are written",
        "",
        "| model | prompt | batch | method | CPU ms a step | to greedy, CPU | to greedy, wall | tokens/s | peak MiB |",
        "|:--|--:|--:|:--|--:|--:|--:|--:|--:|",
    ]
    for model, rows in report["models"].items():
        for row in rows:
            for arm, f in row["arms"].items():
                lines.append(
                    f"| {model} | {row['prompt']} | {row['batch']} | {arm} | {f['cpu_ms']:.1f} "
                    f"| {spread(f['cpu_to_greedy'])} | {spread(f['wall_to_greedy'])} | {f['tokens_per_second']:.1f} "
                    f"| {f['peak_mib']:.1f} |"
                )
    return "\n".join(lines) + "\n"


def show(name: str, row: dict[str, Any]) -> None:
    print(f"{name}, prompt {row['prompt']}, batch {row['batch']}")
    for arm, figures in row["arms"].items():
        print(
            f"  {arm:<12} {figures['cpu_ms']:8.1f} ms CPU a step  {spread(figures['cpu_to_greedy'])} x greedy  "
            f"{figures['tokens_per_second']:7.1f} tokens/s  peak {figures['peak_mib']:7.1f} MiB"
        )
    cpu, wall = spread(row["copying_to_ours_k4_cpu"]), spread(row["copying_to_ours_k4_wall"])
    print(f"  copying / ours, k=4: {cpu} CPU, {wall} wall")


if __name__ == "__main__":
    main()
