"""The primer on contrastive pretraining in language processing (arXiv 2102.12982): with few texts and few labels it is
safer to hold texts against labels than against changed copies of themselves, since a change may turn the meaning round.

Every arm pretrains the same small encoder and head from scratch on the same texts, in as many steps. Without any label
the arms that trained the head use it; the others compare the embeddings of text and label. With 1, 5 and 20 labels a
class all fit the same logistic regression on frozen embeddings; one arm more goes on training the head with these
labels. The learning rate of pretraining is chosen for each arm on validation entries.
"""

from __future__ import annotations

from typing import Any

from nearfar.data.texts.document_spans import DocumentSpans
from nearfar.data.texts.text_views import TextViewPreset
from nearfar.reproductions.setups import labelled_entries
from nearfar.reproductions.shared.choosing import Grid
from nearfar.reproductions.shared.claims import Arms, Claim, Reproduction

CONFIG: dict[str, Any] = {
    "data": labelled_entries.DATA,
    "model": labelled_entries.MODEL,
    "pretraining": {"steps": 300, "batch_size": 32, "warmup": 0.1, "weight_decay": 0.01},
    "fitting": labelled_entries.FITTING,
    "probe": labelled_entries.PROBE,
    "shots": list(labelled_entries.SHOTS),
    "deleted": 0.3,
    "spans": [1, 3],
    "positives": 8,
    "negatives": 32,
    "temperature": 0.1,
}
BINARY, RANKING = "own words, binary", "own words, ranking"
HEAD = "own words, binary, then the head"
NONE, MASKED, DROPOUT, DELETION, SPANS = "no pretraining", "hidden words", "dropout", "deletion", "spans"
ARMS = (NONE, MASKED, DROPOUT, DELETION, SPANS, BINARY, RANKING)
ZERO, FEW, MANY = "macro F1, 0 labels", "macro F1, 1 and 5 labels", "macro F1, 20 labels"
TAIL_ZERO, TAIL_MANY = "tail F1, 0 labels", "tail F1, 20 labels"


def run(seed: int, chosen: dict[str, dict[str, Any]]) -> Arms:
    """All arms on one seed, each with its own setting."""
    arms: Arms = {}
    for arm in ARMS:
        model = pretrained(arm, seed, **chosen[arm])
        arms[arm] = measured(arm, model, seed, "test") | labelled_entries.stressed(model)
        if arm == BINARY:
            arms[HEAD] = fitted(model, seed, "test")
    return arms


def validated(arm: str, setting: dict[str, Any], seed: int) -> float:
    """Macro F1 on validation entries, averaged over 0, 1, 5 and 20 labels a class."""
    figures = measured(arm, pretrained(arm, seed, **setting), seed, "val")
    return (figures[ZERO] + 2 * figures[FEW] + figures[MANY]) / 4


def pretrained(arm: str, seed: int, *, lr: float) -> Any:
    """The encoder and head of an arm before it meets a label."""
    from nearfar.methods import CLESS, MaskedLanguage, SimCSE

    model = labelled_entries.fresh(seed)
    if arm == NONE:
        return model.eval()
    training = CONFIG["pretraining"] | {"lr": lr}
    if arm == MASKED:
        return labelled_entries.pretrained(MaskedLanguage(model), seed, **training)
    if arm in (BINARY, RANKING):
        sizes = {name: CONFIG[name] for name in ("positives", "negatives")}
        method = CLESS(model, objective="binary" if arm == BINARY else "ranking", **sizes)
        return labelled_entries.pretrained(method, seed, **training)
    least, most = CONFIG["spans"]
    views = {
        DELETION: TextViewPreset(delete=CONFIG["deleted"]),
        SPANS: TextViewPreset(spans=DocumentSpans(least, most, anchors=1, positives=1)),
    }
    method = SimCSE(model, head="none", temperature=CONFIG["temperature"])
    return labelled_entries.pretrained(method, seed, text_views=views.get(arm), **training)


def measured(arm: str, model: Any, seed: int, split: str) -> dict[str, Any]:
    """F1 without labels, and with few of them on frozen embeddings."""
    unlabelled = labelled_entries.matched if arm in (BINARY, RANKING) else labelled_entries.compared
    macro, tail = labelled_entries.f1(unlabelled(model, split), split)
    scores = {shots: labelled_entries.probed(model, shots, seed, split) for shots in CONFIG["shots"]}
    figures = {shots: labelled_entries.f1(each, split) for shots, each in scores.items()}
    few = (figures[1][0] + figures[5][0]) / 2
    return {ZERO: macro, TAIL_ZERO: tail, FEW: few, MANY: figures[20][0], TAIL_MANY: figures[20][1]}


def fitted(model: Any, seed: int, split: str) -> dict[str, Any]:
    """Macro F1 with few labels, by the head that went on training with them."""
    after = [labelled_entries.fitted(model, shots, seed) for shots in (1, 5)]
    return {FEW: sum(labelled_entries.f1(labelled_entries.matched(each, split), split)[0] for each in after) / 2}


def _claim(text: str, baseline: str, metric: str, effect: float, **options: Any) -> Claim:
    """Own words as labels, with the binary objective, against a baseline."""
    return Claim(text, BINARY, baseline, metric, effect=effect, **options)


reproduction = Reproduction(
    slug="contrastive-nlp-primer",
    run=run,
    claims=[
        _claim("labels beat dropout without a label", DROPOUT, ZERO, 0.02, floor=NONE),
        _claim("labels beat deletion without a label", DELETION, ZERO, 0.02, floor=NONE),
        _claim("labels beat spans without a label", SPANS, ZERO, 0.02, floor=NONE),
        _claim("labels beat hidden words without a label", MASKED, ZERO, 0.02, floor=NONE),
        _claim("labels beat dropout with few labels", DROPOUT, FEW, 0.02),
        _claim("labels beat deletion with few labels", DELETION, FEW, 0.02),
        _claim("labels beat spans with few labels", SPANS, FEW, 0.02),
        _claim("labels beat dropout on rare classes", DROPOUT, TAIL_MANY, 0.02),
        _claim("labels beat deletion on rare classes", DELETION, TAIL_MANY, 0.02),
        _claim("deletion draws opposites nearer than labels do", DELETION, "opposites", 0.05, direction="lower"),
        _claim("deletion draws negations nearer than labels do", DELETION, "negations", 0.05, direction="lower"),
        Claim(
            "deletion draws opposites nearer than dropout does", DROPOUT, DELETION, "opposites", "lower", effect=0.05
        ),
        Claim("ranking beats binary without a label", RANKING, BINARY, ZERO, effect=0.02),
        Claim("the head that goes on beats a probe with few labels", HEAD, BINARY, FEW, effect=0.02),
        _claim("own words as labels teach something", NONE, FEW, 0.02, premise=True),
    ],
    seeds=range(10, 17),  # two CPU minutes each; none that a first run, which stopped at an error, had begun
    pilot=0,
    grid=Grid(ARMS, {"lr": [1e-3, 4e-3]}, validated, "macro F1 over 0, 1, 5 and 20 labels"),
    config=CONFIG,
    note=(
        "The survey has no experiments; this tests its thesis at the smallest scale: 1,500 short texts and an encoder "
        "of two layers from scratch. Labels of pretraining are the text's own words (CLESS). Zero labels: arms that "
        "trained the head use it, the others compare embeddings. A head that had not been pretrained stayed at chance "
        "in a trial on validation entries, so labels are fitted by logistic regression in all arms but one. Nearness "
        "of opposites is scaled so that 0 is the mean over pairs of entries and 1 the same text, since the arms spread "
        "their spaces differently. The encoder is a transformer where CLESS has a convolution."
    ),
)
