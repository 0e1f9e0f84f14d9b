"""COCONUT (arXiv 2310.02699): a model of spoken commands that learns intents task by task forgets less when rehearsed
sounds find their class where the model before saw it (NSPT), and new sounds are drawn to their texts (MM).

Every arm starts from the same weights and takes the same number of steps, and all that rehearse have the same memory
and the same quota of each batch. Only the weights of the two losses differ; they are chosen, by one number, on another
order of the intents and another voice. The teacher of NTPT and NSPT costs a further pass without gradients through the
encoder, which the others are not given back.
"""

from __future__ import annotations

from typing import Any

import torch

from nearfar.reproductions.setups import command_tasks
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "data": command_tasks.DATA,
    "model": command_tasks.MODEL,
    "features": command_tasks.LOG_MEL,
    "training": {"batch_size": 32, "lr": 2e-3, "warmup": 0.1, "weight_decay": 0.01},
    "steps": {"first": 150, "later": 80, "all at once": 310},
    "memory": 12,
    "quota": 8,
    "weights": {"lambda_mm": 0.1, "lambda_nspt": 1.0},
    "temperature": 0.1,
}
ARMS: dict[str, dict[str, Any]] = {
    "fine-tuning": {"memory": 0},
    "ER": {},
    "ER + NTPT": {"rehearses": True, "negatives_from": "teacher"},
    "ER + NSPT": {"rehearses": True},
    "ER + MM": {"mm": True},
    "COCONUT": {"rehearses": True, "mm": True},
}
FURTHER: dict[str, dict[str, Any]] = {
    "ER + S-KD": {"distil": "sequence"},
    "COCONUT + S-KD": {"rehearses": True, "mm": True, "distil": "sequence"},
}
"""Arms that no claim compares and that are not in the record: distillation by what the teacher writes of rehearsed
sounds (arXiv 2305.13899), which the paper adds to either. `further` runs them."""
TUNED = ("ER + NTPT", "ER + NSPT", "ER + MM", "COCONUT")


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, which draws the order of the intents, and the upper bound: all intents in one task."""
    arms = dict[str, dict[str, Any]]()
    firsts: dict[tuple[Any, ...], Any] = {}
    for arm in ARMS:
        arms[arm] = _figures(_tasks(arm, seed, firsts, **chosen.get(arm, {"scale": 0.0})), seed, "test")
    whole = command_tasks.learned(
        command_tasks.new_model(seed),
        _method("ER", 0.0),
        [row for rows in _rows(seed) for row in rows],
        [],
        seed=seed,
        quota=0,
        steps=CONFIG["steps"]["all at once"],
        **CONFIG["training"],
    )
    accuracy, wrong, said = command_tasks.heard(whole, "test", list(range(_classes())))
    last = sum(accuracy.values()) / len(accuracy)
    return arms | {"all at once": {"last accuracy": last, "WER": wrong / said}}


def further(arm: str, seed: int, *, scale: float = 0.0) -> dict[str, Any]:
    """The figures of any arm, one of `FURTHER` say, on a seed; `scale` multiplies the weights of its losses, as the
    grid does."""
    return _figures(_tasks(arm, seed, {}, scale=scale), seed, "test")


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """Last accuracy on the validation voice, in the order of the intents that another seed draws."""
    return float(_figures(_tasks(arm, seed, {}, **setting), seed, "val")["last accuracy"])


def _tasks(arm: str, seed: int, firsts: dict[tuple[Any, ...], Any], *, scale: float) -> list[Any]:
    """The model after each task. Arms that do the same in the first task have one model of it, kept in `firsts`."""
    from nearfar.data import RehearsalMemory

    model, models, size = command_tasks.new_model(seed), [], _own(arm).get("memory", CONFIG["memory"])
    memory = RehearsalMemory(size, seed=seed) if size else None
    label, kept = command_tasks.sounds("train")[2], []  # type: ignore[var-annotated]
    for number, rows in enumerate(_rows(seed)):
        same = (scale if _own(arm).get("mm") else 0.0,)
        if number or same not in firsts:
            model = command_tasks.learned(
                model,
                _method(arm, scale, first=not number),
                rows,
                kept,
                seed=100 * seed + number,
                quota=CONFIG["quota"] if kept else 0,
                steps=CONFIG["steps"]["later" if number else "first"],
                **CONFIG["training"],
            )
            if not number:
                firsts[same] = model
        else:
            model = firsts[same]
        models.append(model)
        if memory is not None:
            memory.update(torch.tensor(rows), label[rows])
            kept = memory.numbers()
    return models


def _figures(models: list[Any], seed: int, split: str) -> dict[str, Any]:
    """Average and last accuracy, forgetting, and the mean word error rate, over the intents known after each task."""
    from nearfar.evaluation.measures.task_accuracies import average_accuracy, forgetting, last_accuracy

    after, by_task, wer = [], [], []
    tasks = _order(seed)
    for number, model in enumerate(models):
        known = tasks[: number + 1]
        accuracy, wrong, said = command_tasks.heard(model, split, [each for task in known for each in task])
        after.append(sum(accuracy.values()) / len(accuracy))
        by_task.append([sum(accuracy[each] for each in task) / len(task) for task in known])
        wer.append(wrong / said)
    return {
        "average accuracy": average_accuracy(after),
        "last accuracy": last_accuracy(after),
        "forgetting": forgetting(by_task),
        "WER": sum(wer) / len(wer),
    }


def _method(arm: str, scale: float, *, first: bool = False) -> Any:
    from nearfar.methods.speech.coconut import COCONUT

    own, weights = _own(arm), CONFIG["weights"]

    def make(model: Any) -> Any:
        return COCONUT(
            model,
            lambda_mm=scale * weights["lambda_mm"] if own.get("mm") else 0.0,
            lambda_nspt=scale * weights["lambda_nspt"] if own.get("rehearses") and not first else 0.0,
            negatives_from=own.get("negatives_from", "student"),
            temperature=CONFIG["temperature"],
            distil="none" if first else own.get("distil", "none"),
        )

    return make


def _own(arm: str) -> dict[str, Any]:
    """What tells an arm from experience replay."""
    return (ARMS | FURTHER)[arm]


def _classes() -> int:
    from nearfar.data.sound.command_grammar import sentences

    return len(sentences())


def _order(seed: int) -> list[list[int]]:
    from nearfar.data import class_tasks

    return class_tasks(_classes(), command_tasks.DATA["tasks"], seed=seed)


def _rows(seed: int) -> list[list[int]]:
    """The training sounds of each task."""
    label = command_tasks.sounds("train")[2].tolist()
    return [[row for row, own in enumerate(label) if own in task] for task in _order(seed)]


def _claim(text: str, method: str, baseline: str, metric: str, *, lower: bool = False, premise: bool = False) -> Claim:
    return Claim(text, method, baseline, metric, direction="lower" if lower else "higher", premise=premise)


reproduction = Reproduction(
    slug="coconut",
    run=run,
    claims=[
        _claim("rehearsal keeps more than fine-tuning alone", "ER", "fine-tuning", "last accuracy", premise=True),
        _claim(
            "all intents at once are learned better than in tasks", "all at once", "ER", "last accuracy", premise=True
        ),
        _claim("knows more at the end than rehearsal", "COCONUT", "ER", "last accuracy"),
        _claim("knows more on average than rehearsal", "COCONUT", "ER", "average accuracy"),
        _claim("forgets less than rehearsal", "COCONUT", "ER", "forgetting", lower=True),
        _claim("mishears fewer words than rehearsal", "COCONUT", "ER", "WER", lower=True),
        _claim("NSPT adds to rehearsal", "ER + NSPT", "ER", "last accuracy"),
        _claim("negatives of the student are better than the teacher's", "ER + NSPT", "ER + NTPT", "last accuracy"),
        _claim("MM adds to rehearsal", "ER + MM", "ER", "average accuracy"),
        _claim("MM adds to NSPT", "COCONUT", "ER + NSPT", "last accuracy"),
    ],
    seeds=range(10, 18),
    pilot=0,
    grid=Grid(TUNED, {"scale": [0.3, 1.0]}, validated, "last accuracy"),
    config=CONFIG,
    note=(
        "The paper's body was not readable to those who wrote this, and its models (wav2vec 2.0) and data (FSC, SLURP) "
        "are not here: nothing of this is a figure of its tables. Sounds are spoken by flite, three tasks of three "
        "intents; the tested voice is in no training sound, its sentences may be. Each seed draws its own order of the "
        "intents, memory and batches. All arms that rehearse have a quota of 8 of 32 sounds in a batch; fine-tuning "
        "has 32 new ones. The scale multiplies lambda_MM = 0.1 and lambda_NSPT = 1."
    ),
)
