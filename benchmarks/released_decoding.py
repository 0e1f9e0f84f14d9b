"""Contrastive search as it was released, beside ours: transformers' own of 4.49 (removed in 5), and SimCTG's loop.

    git clone https://github.com/yxuansu/SimCTG
    python -m venv old && old/bin/pip install torch==2.13.0 transformers==4.49.0 numpy
    OMP_NUM_THREADS=2 python benchmarks/released_decoding.py --old old/bin/python --simctg SimCTG

Both need an old transformers, so that they run in a process of their own, and the two processes take turns arm by arm:
greedy search of either version tells how far the versions themselves differ. SmolLM2, batch 1, float32. A token's time
is the median from one call of the model to the next, so that the prompt is left out. SimCTG's loop is given its cache
in the form that it was written for.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

K, ALPHA = 4, 0.6
RESULTS = Path(__file__).parent / "results" / "released_decoding.json"
Arm = Callable[[Tensor, int], Tensor]
clock: list[tuple[float, float]] = []  # CPU and wall seconds at each call of the model


def ours(folder: str, _: str) -> dict[str, Arm]:
    from transformers import AutoModelForCausalLM

    from nearfar.decoding import contrastive_search

    model = timed(AutoModelForCausalLM.from_pretrained(folder, dtype="float32"))
    return {
        "greedy": greedy(model),
        "ours": lambda ids, steps: contrastive_search(
            model, ids, attention_mask=torch.ones_like(ids), k=K, alpha=ALPHA, max_new_tokens=steps, eos_token_id=None
        ),
    }


def released(folder: str, simctg: str) -> dict[str, Arm]:
    """In transformers 4.49."""
    from safetensors.torch import load_file
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    settings = json.loads(Path(folder, "config.json").read_text("utf-8"))
    settings["rope_theta"] = settings.pop("rope_parameters")["rope_theta"]  # version 5's name for it
    model = timed(LlamaForCausalLM(LlamaConfig(**settings)))
    model.load_state_dict(load_file(Path(folder, "model.safetensors")), strict=False)
    model.generation_config.eos_token_id = None
    spec = importlib.util.spec_from_file_location("utlisgpt", Path(simctg, "simctg", "utlisgpt.py"))
    assert spec is not None
    assert spec.loader is not None
    loop: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loop)

    def with_tuples(input_ids: Tensor, past_key_values: Any, attention_mask: Any = None, **options: Any) -> Any:
        cache = DynamicCache.from_legacy_cache(past_key_values)
        out = model(input_ids=input_ids, past_key_values=cache, **options)
        out.past_key_values = cache.to_legacy_cache()
        return out

    def of_simctg(ids: Tensor, steps: int) -> Tensor:
        token, cache, states, logits = ids, None, None, None
        for step in range(steps):
            token, cache, states, logits = loop.ContrastiveDecodingOneStepFast(
                with_tuples, token, K, ALPHA, cache, states, None, logits, first_step=step == 0
            )
            ids = torch.cat([ids, token], dim=1)
        return ids

    def of_transformers(**options: Any) -> Arm:
        return lambda ids, steps: model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False,
            penalty_alpha=ALPHA, top_k=K, **options,
        )  # fmt: skip

    return {
        "greedy 4.49": greedy(model),
        "transformers 4.49": of_transformers(),
        "SimCTG": of_simctg,
    }


def greedy(model: Any) -> Arm:
    return lambda ids, steps: model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=steps, do_sample=False, eos_token_id=None
    )


def timed(model: Any) -> Any:
    model.register_forward_pre_hook(lambda *_: clock.append((time.process_time(), time.perf_counter())))
    return model.eval()


@torch.no_grad()
def work(arms: dict[str, Arm]) -> None:
    """Run what standard input asks for, a line of JSON a run; answer with the seconds a token, and the tokens."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    print(json.dumps(list(arms)), file=answers, flush=True)
    for line in sys.stdin:
        name, prompt, steps = json.loads(line)
        ids = torch.randint(3, 49152, (1, prompt), generator=torch.Generator().manual_seed(0))
        clock.clear()
        tokens = arms[name](ids, steps)
        taken = list(itertools.pairwise(clock[1:]))  # the first call reads the prompt
        spent = [statistics.median(b[unit] - a[unit] for a, b in taken) for unit in (0, 1)]
        print(json.dumps([spent, tokens[0, prompt:].tolist()]), file=answers, flush=True)


class Worker:
    def __init__(self, python: str, side: str, folder: str, simctg: str) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--side", side, "--model", folder, "--simctg", simctg, "--old", python],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.arms: list[str] = self.ask(None)

    def ask(self, question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if question is not None:
            print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", required=True, help="the Python that has transformers 4.49")
    parser.add_argument("--simctg", required=True, help="a checkout of yxuansu/SimCTG")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--model", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        work({"ours": ours, "released": released}[options.side](options.model, options.simctg))
        return
    from nearfar.models.language.smollm import smollm2

    folder, load = str(smollm2()), os.getloadavg()[0]
    sides = {"ours": sys.executable, "released": options.old}
    workers = [Worker(python, side, folder, options.simctg) for side, python in sides.items()]
    by_arm = {arm: worker for worker in workers for arm in worker.arms}
    spent: dict[str, list[list[float]]] = {arm: [] for arm in by_arm}
    for _ in range(options.rounds):
        texts = {}
        for arm, worker in by_arm.items():
            seconds, texts[arm] = worker.ask([arm, options.prompt, options.steps])
            spent[arm].append(seconds)
        searched = {tuple(text) for arm, text in texts.items() if "greedy" not in arm}
        assert len(searched) == 1, "all arms of contrastive search write the same tokens"
    for worker in workers:
        worker.process.stdin.close()
        worker.process.wait()
    setting = {"prompt": options.prompt, "tokens": options.steps, "rounds": options.rounds, "k": K, "alpha": ALPHA}
    setting |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "load_average": load}
    options.output.write_text(json.dumps({**setting, "seconds": spent}, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(markdown(setting, spent))
    print(markdown(setting, spent))


def markdown(setting: dict[str, Any], spent: dict[str, list[list[float]]]) -> str:
    """The table that the docs hold."""
    template = (
        "SmolLM2-135M, a prompt of {prompt} tokens, batch 1, k = {k}, float32, {threads} threads, torch {torch}, "
        "medians of {rounds} rounds of {tokens} tokens in which the arms take turns, load average {load_average:.1f}."
    )
    lines = [
        template.format(**setting),
        "",
        "| arm | CPU ms a token | wall ms a token | to ours, CPU | to ours, wall |",
        "|:--|--:|--:|--:|--:|",
    ]
    for arm, times in spent.items():
        medians = [1000 * statistics.median(column) for column in zip(*times, strict=True)]
        ratios = [statistics.median(a[i] / b[i] for a, b in zip(times, spent["ours"], strict=True)) for i in (0, 1)]
        lines.append(f"| {arm} | {medians[0]:.1f} | {medians[1]:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
