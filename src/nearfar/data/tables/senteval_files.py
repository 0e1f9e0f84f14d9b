"""Labelled sentences as SentEval (arXiv 1803.05449) publishes its transfer tasks: MR, CR, SUBJ and MPQA, one file a
class; SST2, TREC and MRPC, one file a split."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from nearfar.data.sources.skipped import Skipped
from nearfar.data.sources.source import Record, Records
from nearfar.data.tables.encoding import decode_text
from nearfar.errors import UserError

BY_CLASS = (
    {"rt-polarity.neg": "negative", "rt-polarity.pos": "positive"},
    {"custrev.neg": "negative", "custrev.pos": "positive"},
    {"subj.subjective": "subjective", "subj.objective": "objective"},
    {"mpqa.neg": "negative", "mpqa.pos": "positive"},
)
"""Tasks of one file a class: each file, and the class of its lines; MR, CR, SUBJ, MPQA."""

SST = {"train": "sentiment-train", "dev": "sentiment-dev", "test": "sentiment-test"}
TREC = {"train": "train_5500.label", "test": "TREC_10.label"}
MRPC = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}
BY_SPLIT = (SST, TREC, MRPC)
"""Tasks of one file a split."""

KINDS = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
"""TREC's classes: what a question asks for. The finer ones behind the colon are left out, as SentEval does."""


class SentEvalTask(Records):
    """A task's records, and where it has splits, those to fit on (`training`)."""

    fit: SentEvalTask | None = None

    def training(self) -> SentEvalTask | None:
        """The training split, where these records are the test split; None elsewhere."""
        return self.fit


def senteval(path: str | os.PathLike[str], *, split: str | None = None) -> SentEvalTask:
    """A transfer task of SentEval.

    Args:
        path: the folder that holds its files: `rt-polarity.pos` and `.neg` (MR), `custrev.pos` and `.neg` (CR),
            `subj.objective` and `.subjective` (SUBJ), `mpqa.pos` and `.neg` (MPQA), `sentiment-train`, `-dev` and
            `-test` (SST2), `train_5500.label` and `TREC_10.label` (TREC), or `msr_paraphrase_train.txt` and
            `_test.txt` (MRPC).
        split: "train", "dev" (SST2) or "test", of tasks that have splits. Default: test, with the training split as
            its `training()`.

    Returns:
        a `Source` of `text` and `label`, of MRPC `text2` too.

    Raises:
        UserError: a file is missing, a line is broken, or there is no such split.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "custrev.pos").write_text("works well\\n")
    >>> _ = (folder / "custrev.neg").write_text("broke at once\\nbroke later\\n")
    >>> task = senteval(folder)
    >>> task.classes, [record["label"] for record in task]
    (['negative', 'positive'], [0, 0, 1])
    """
    folder = Path(path)
    for classes in BY_CLASS:
        if any((folder / file).is_file() for file in classes):
            if split is not None:
                raise UserError(f"{folder}: this task has no splits; leave out split={split!r}")
            return _of_classes(folder, classes)
    for files in BY_SPLIT:
        if any((folder / file).is_file() for file in files.values()):
            if split is not None and split not in files:
                raise UserError(f"{folder}: its splits are {', '.join(files)}; there is no {split!r}")
            task = _of_split(folder / files[split or "test"])
            if split is None:
                task.fit = _of_split(folder / files["train"])
            return task
    raise UserError(f"{folder} holds no task of SentEval, such as rt-polarity.pos and rt-polarity.neg")


def is_senteval(path: Path) -> bool:
    """Whether a path is a folder that `senteval` reads."""
    names = (*BY_CLASS, *(files.values() for files in BY_SPLIT))
    return path.is_dir() and any((path / file).is_file() for files in names for file in files)


def _of_classes(folder: Path, classes: dict[str, str]) -> SentEvalTask:
    skipped, records = Skipped(), list[Record]()
    for label, file in enumerate(classes):
        for number, line in _lines(folder / file):
            if line.strip():
                records.append({"text": line.strip(), "label": label})
            else:
                skipped.add(f"{folder / file}, line {number}", "no text")
    return SentEvalTask(records, name=folder.name, classes=list(classes.values()), skipped=skipped)


def _of_split(file: Path) -> SentEvalTask:
    read, classes = _READERS[file.name]
    records: list[Record] = []
    for number, line in _lines(file):
        if not line.strip() or (number == 1 and file.name in MRPC.values()):  # a header, there
            continue
        try:
            record = read(line)
            records.append(record | {"label": classes.index(record["label"])})
        except (IndexError, ValueError):
            labels = ", ".join(classes)
            raise UserError(f"{file}: line {number} is no sentence with a label of {labels}: {line[:60]!r}") from None
    return SentEvalTask(records, name=f"{file.parent.name}/{file.name}", classes=classes)


def _sst(line: str) -> Record:
    text, label = line.split("\t")[:2]
    return {"text": text.strip(), "label": label.strip()}


def _trec(line: str) -> Record:
    label, rest = line.split(":", 1)
    return {"text": rest.split(" ", 1)[1].strip(), "label": label.strip()}


def _mrpc(line: str) -> Record:
    fields = line.split("\t")
    return {"text": fields[3].strip(), "text2": fields[4].strip(), "label": fields[0].strip()}


_READERS: dict[str, tuple[Callable[[str], Record], list[str]]] = {
    **{file: (_sst, ["0", "1"]) for file in SST.values()},
    **dict.fromkeys(TREC.values(), (_trec, KINDS)),
    **{file: (_mrpc, ["0", "1"]) for file in MRPC.values()},
}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers. Some were published in Latin-1, which SentEval reads all in."""
    if not file.is_file():
        raise UserError(f"{file.name} is missing in {file.parent}, which holds other files of its task")
    data = file.read_bytes()
    text = decode_text(data)
    return enumerate((data.decode("latin-1") if text is None else text).split("\n"), start=1)
