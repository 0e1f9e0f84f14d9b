"""The table of protocols, one row each: what `evaluate`, the command line, recipes, the check before training and the
report know of them. A new protocol is one file here and one row below, or `register(Protocol(...))` from elsewhere.

This module is light: what measures is imported when it runs.
"""

from __future__ import annotations

from nearfar.errors import UserError
from nearfar.evaluation.protocols.protocol import Protocol
from nearfar.evaluation.protocols.signature import Option

__all__ = ["PROTOCOLS", "Option", "Protocol", "register"]

HERE = "nearfar.evaluation.protocols"
EXAMPLES = "nearfar.evaluation.report.examples"

_ROWS = (
    Protocol(
        "retrieval",
        "does a text find its image, and an image its text?",
        f"{HERE}.retrieval:retrieval",
        takes=("embeddings",),
        sides=("image", "text"),
        usual=True,
        headlines={
            "text_to_image_R@1": "text to image R@1",
            "text_to_image_R@10": "text to image R@10",
            "image_to_text_R@1": "image to text R@1",
            "image_to_text_R@10": "image to text R@10",
        },
    ),
    Protocol(
        "zero_shot",
        "class names as classifiers",
        f"{HERE}.zero_shot_accuracy:zero_shot",
        takes=("encoder", "embeddings"),
        sides=("image",),
        columns=("label",),
        abilities=("encode_text",),
        usual=True,
        named_classes=True,
        flags={"--templates": "templates", "--class-texts": "texts", "--candidates": "candidates"},
        headlines={"top1": "zero-shot top 1"},
    ),
    Protocol(
        "knn",
        "classes by the nearest labelled images",
        f"{HERE}.probes:knn",
        takes=("embeddings", "train_embeddings"),
        sides=("image",),
        columns=("label",),
        headlines={"top1": "neighbours top 1"},
    ),
    Protocol(
        "linear_probe",
        "classes by logistic regression on frozen embeddings",
        f"{HERE}.probes:linear_probe",
        takes=("embeddings", "train_embeddings"),
        sides=("image",),
        columns=("label",),
        headlines={"top1": "linear probe top 1"},
    ),
    Protocol(
        "agreement",
        "does a student embed pictures as its teacher does? (cosine, shared neighbours)",
        "nearfar.evaluation.measures.teacher_agreement:agreement",
        takes=("embeddings",),
        sides=("image",),
        flags={"--teacher": "teacher"},
        headlines={"neighbours": "neighbours shared with the teacher", "cosine": "cosine with the teacher"},
    ),
    Protocol(
        "few_shot",
        "episodes of a few classes with a few examples each; class means as they are, and moved onto the queries",
        f"{HERE}.few_shot_accuracy:few_shot",
        takes=("embeddings",),
        sides=("image",),
        columns=("label",),
        flags={"--ways": "ways", "--shots": "shots", "--queries": "queries", "--episodes": "episodes"},
        headlines={
            f"{kind}_{shots}_shot": f"{shots} shot, {called}"
            for shots in (1, 5)
            for kind, called in {"prototypes": "prototypes", "opta": "OpTA"}.items()
        },
        examples=("Few-shot episodes", "nearfar.evaluation.report.few_shot_figure:few_shot_figure"),
    ),
    Protocol(
        "clustering",
        "do clusters made without labels agree with the classes? (k-means; NMI, ARI, purity)",
        f"{HERE}.clustering:clustering",
        takes=("embeddings",),
        sides=("image",),
        columns=("label",),
        headlines={"nmi": "clusters, NMI", "ari": "clusters, ARI"},
    ),
    Protocol(
        "segmentation",
        "the class of each pixel, by a linear map of a frozen map's cells (mIoU)",
        "nearfar.evaluation.dense.segmentation:segmentation",
        takes=("encoder", "source"),
        columns=("image", "mask"),
        abilities=("encode_image_map",),
        flags={"--labelled": "labelled"},
        headlines={"miou": "segmentation, mIoU"},
        examples=("Masks", "nearfar.evaluation.dense.segmentation_figure:segmentation_figure"),
    ),
    Protocol(
        "regions",
        "names as classifiers of the things in known boxes, and where the model points for a name",
        "nearfar.evaluation.detection.region_classes:regions",
        takes=("encoder", "source"),
        columns=("image", "objects"),
        abilities=("encode_image_map", "encode_text"),
        flags={"--read-regions": "read"},
        headlines={"region_accuracy": "regions by name", "pointing": "pointing game"},
    ),
    Protocol(
        "detection",
        "boxes of what names say, against known ones: COCO's average precision, of base and novel classes",
        "nearfar.evaluation.detection.open_vocabulary:detection",
        takes=("encoder", "source"),
        columns=("image", "objects"),
        abilities=("detect", "encode_text"),
        named_classes=True,
        flags={"--base-classes": "base", "--frozen-model": "frozen"},
        headlines={"AP": "detection, AP", "AP50": "detection, AP50"},
        examples=("Boxes", "nearfar.evaluation.detection.boxes_figure:boxes_figure"),
    ),
    Protocol(
        "video_classes",
        "class names as classifiers of videos, adapted to each where the model does that, over several views",
        "nearfar.evaluation.video.video_classes:video_classes",
        takes=("encoder", "source"),
        columns=("video", "label"),
        abilities=("encode_image|encode_video", "encode_text"),
        named_classes=True,
        flags={"--selections": "selections", "--crops": "crops"},
        headlines={"top1": "videos, top 1"},
    ),
    Protocol(
        "transcription",
        "the class and the words that a model writes of a sound: accuracy and word error rate",
        "nearfar.evaluation.language.transcription_accuracy:transcription",
        takes=("encoder", "source"),
        columns=("audio", "text", "label"),
        abilities=("transcribe",),
        headlines={"top1": "class of a sound, top 1", "wer": "word error rate"},
    ),
    Protocol(
        "captioning",
        "captions that a model writes: exact, F1 of words, and what the likelihood of a caption gains by its picture",
        "nearfar.evaluation.language.caption_accuracy:captioning",
        takes=("encoder", "source"),
        columns=("image", "text"),
        abilities=("caption", "likelihoods"),
        headlines={"exact": "captions, exact", "token_f1": "captions, F1 of words", "gain": "gain by the picture"},
    ),
    Protocol(
        "yes_no",
        "yes-no questions, answered in words: accuracy, F1 of 'yes', how often it says yes (POPE, MME)",
        "nearfar.evaluation.hallucination.yes_no_questions:yes_no",
        takes=("encoder", "source"),
        columns=("image", "text", "answers"),
        abilities=("caption",),
        headlines={"accuracy": "yes or no, accuracy", "f1": "yes or no, F1"},
    ),
    Protocol(
        "chair",
        "things that captions name and that are not in the picture (CHAIR)",
        "nearfar.evaluation.hallucination.caption_objects:chair",
        takes=("encoder", "source"),
        columns=("image", "objects"),
        abilities=("caption",),
        headlines={"chair_s": "captions with a thing that is not there", "chair_i": "things named that are not there"},
    ),
    Protocol(
        "contrasts",
        "two pictures that hardly differ, with a text each: does each find its own, and is the picture what says so?",
        "nearfar.evaluation.language.contrast_accuracy:contrasts",
        takes=("encoder", "source"),
        columns=("image", "text", "image2", "text2"),
        abilities=("likelihoods",),
        headlines={"paired_accuracy": "pairs of pictures, both right", "ordering": "likelihoods in order"},
    ),
    Protocol(
        "geometry",
        "the shape of the space: alignment, uniformity, effective rank, modality gap, collapse, hubs",
        f"{HERE}.geometry:geometry",
        takes=("embeddings",),
        columns=("image|text",),
        abilities=("encode_image|encode_text",),
        usual=True,
    ),
    Protocol(
        "similarity",
        "do cosines of sentences rank pairs as people do? (STS)",
        f"{HERE}.similarity:similarity",
        takes=("encoder", "source"),
        columns=("text", "{second}", "{score}"),
        abilities=("encode_text",),
        headlines={"spearman": "similarity, Spearman"},
    ),
    Protocol(
        "sts",
        "published STS sets of sentence pairs, as papers report them, with alignment, uniformity and isotropy",
        "nearfar.evaluation.language.sts_benchmarks:sts",
        takes=("encoder", "source"),
        columns=("text", "text2", "score"),
        abilities=("encode_text",),
        own_data="sets",
        flags={"--sts-sets": "sets"},
        headlines={"spearman": "STS, Spearman"},
    ),
    Protocol(
        "pair_retrieval",
        "does a text find the other text of its pair, among those of all pairs?",
        "nearfar.evaluation.language.pair_retrieval:pair_retrieval",
        takes=("encoder", "source"),
        columns=("text", "text2"),
        abilities=("encode_text",),
        headlines={"first_to_second_R@1": "pairs R@1", "first_to_second_R@10": "pairs R@10"},
    ),
    Protocol(
        "sentence_probe",
        "classes of sentences or of pairs, by logistic regression on frozen embeddings (SentEval's transfer tasks)",
        "nearfar.evaluation.language.sentence_probe:sentence_probe",
        takes=("encoder", "source"),
        columns=("text", "label"),
        abilities=("encode_text",),
        own_data="sets",
        flags={"--probe-sets": "sets"},
        headlines={"accuracy": "sentence probe, accuracy"},
        examples=("Sentences put into a wrong class", f"{EXAMPLES}:wrong_sentences"),
    ),
    Protocol(
        "label_match",
        "labels that are texts, matched with texts without an example: macro and tail F1, average precision (CLESS)",
        "nearfar.evaluation.language.label_match:label_match",
        takes=("encoder", "source"),
        columns=("text", "{labels}"),
        abilities=("match_labels",),
        flags={"--label-texts": "labels"},
        headlines={"macro_f1": "labels without examples, macro F1"},
    ),
    Protocol(
        "word_ratings",
        "a space of words against people's ratings of them: axes, probes, norms, categories",
        "nearfar.evaluation.words.word_ratings:word_ratings",
        takes=("encoder", "source"),
        columns=("text", "{rating}"),
        abilities=("encode_text",),
        headlines={"first_axis": "ratings and the first axis, |r|", "probe": "ratings, probed, r"},
        examples=("The space of words", "nearfar.evaluation.report.word_map:word_map"),
    ),
    Protocol(
        "word_categories",
        "do clusters of words, made without labels, agree with categories? (k-means and hierarchy; NMI, ARI, purity)",
        "nearfar.evaluation.words.word_categories:word_categories",
        takes=("encoder", "source"),
        columns=("text", "label"),
        abilities=("encode_text",),
        headlines={"kmeans_nmi": "clusters of words, NMI", "hierarchy_nmi": "words by a hierarchy, NMI"},
        examples=("Clusters of words", "nearfar.evaluation.words.category_figure:category_figure"),
    ),
    Protocol(
        "relations",
        "how things in a picture are related, and what they are: is the right name among the first 1, 5, 10? (VG-Bert)",
        "nearfar.evaluation.words.relation_accuracy:relations",
        takes=("encoder", "source"),
        columns=("image", "objects"),
        abilities=("ground", "object_logits"),
        headlines={"relation_top1": "relation, top 1", "object_top1": "thing, top 1"},
    ),
    Protocol(
        "compositionality",
        "relation, attribution and order of words, as multiple choice (ARO)",
        "nearfar.evaluation.compositionality.measure:measure",
        takes=("encoder", "source"),
        columns=("image", "text"),
        abilities=("encode_image", "encode_text"),
        by_number=True,
        own_data="aro",
        flags={"--aro": "aro", "--leave-out": "leave_out"},
        headlines={
            "relation_accuracy": "relation",
            "attribution_accuracy": "attribution",
            "order_accuracy": "order",
        },
        examples=("Wrong choices", f"{EXAMPLES}:choices"),
    ),
    Protocol(
        "order_probe",
        "retrieval with shuffled captions, and with pictures cut up",
        "nearfar.evaluation.compositionality.probe:order_probe",
        takes=("encoder", "source"),
        sides=("image", "text"),
    ),
    Protocol(
        "answering",
        "answers to questions, beside baselines without the picture",
        f"{HERE}.answer_accuracy:answering",
        takes=("encoder", "source"),
        columns=("image", "text", "answers"),
        abilities=("encode_image", "answer"),
        flags={"--answer-list": "candidates"},
        examples=("Wrong answers", f"{EXAMPLES}:answers"),
    ),
    Protocol(
        "entailment",
        "does a picture entail a statement, contradict it, or neither?",
        f"{HERE}.entailment_accuracy:entailment",
        takes=("encoder", "source"),
        columns=("image", "text", "label"),
        abilities=("encode_image", "judge"),
        examples=("Wrong verdicts", f"{EXAMPLES}:verdicts"),
    ),
    Protocol(
        "grounding",
        "does a model point at the thing that a phrase names?",
        f"{HERE}.grounding:grounding",
        takes=("encoder", "source"),
        columns=("image", "box|objects"),
        abilities=("encode_image", "locate"),
        examples=("Where the model points", f"{EXAMPLES}:phrase_maps"),
    ),
)

PROTOCOLS: dict[str, Protocol] = {row.name: row for row in _ROWS}
"""Protocols by name."""


def register(protocol: Protocol) -> Protocol:
    """Add a protocol of your own: from then on `evaluate`, `nearfar evaluate`, recipes and the report know it.

    Raises:
        UserError: the name is taken.
    """
    if PROTOCOLS.get(protocol.name, protocol) != protocol:
        raise UserError(f"there is a protocol {protocol.name!r} already: give yours another name")
    PROTOCOLS[protocol.name] = protocol
    return protocol
