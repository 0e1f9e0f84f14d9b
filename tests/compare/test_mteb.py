"""A model of nearfar in MTEB and in CLIP_benchmark: each gives the figure of our own protocol, on local data."""

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import Records, train_tokenizer
from nearfar.evaluation import embed, evaluate
from nearfar.evaluation.peers.clip_benchmark_model import clip_benchmark_model
from nearfar.evaluation.peers.mteb_model import MtebModel
from nearfar.models import create, text_encoder

COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (0, 0, 0),
    (255, 255, 255),
]
NAMES = ["red", "green", "blue", "yellow", "cyan", "magenta", "black", "white"]
TEXTS = [f"a {name} square" for name in NAMES] + [f"all of it is {name}" for name in NAMES]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vit = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return create(image=vit, text=bert, image_size=32, tokenizer=train_tokenizer(TEXTS * 9, 300), embed_dim=16).eval()


@pytest.fixture(scope="module")
def pairs():
    pictures = [Image.new("RGB", (32, 32), colour) for colour in COLOURS]
    records = [{"image": p, "text": [TEXTS[i], TEXTS[i + 8]], "index": i} for i, p in enumerate(pictures)]
    return Records(records, name="squares")


@pytest.fixture(scope="module")
def recall(model, pairs):
    actual = evaluate(model, pairs, ["retrieval"], embeddings=embed(model, pairs))["retrieval"]
    return {k: (actual[f"text_to_image_R@{k}"], actual[f"image_to_text_R@{k}"]) for k in (1, 5)}


def test_clip_benchmark(model, pairs, recall):
    metrics = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    encoder, transform, tokenizer = clip_benchmark_model(model)
    rows = [(transform(record["image"]), record["text"]) for record in pairs]
    batches = [
        (torch.stack([pixels for pixels, _ in part]), [texts for _, texts in part]) for part in (rows[:5], rows[5:])
    ]
    actual = metrics.evaluate(encoder, batches, tokenizer, "cpu", amp=False, recall_k_list=[1, 5])
    for k in (1, 5):
        ours = (actual[f"image_retrieval_recall@{k}"], actual[f"text_retrieval_recall@{k}"])
        assert ours == pytest.approx(recall[k], abs=1e-6)


def test_mteb_and_mieb(model, pairs, recall, tmp_path):
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.task_metadata import TaskMetadata

    class Squares(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Squares",
            description="Which square is described?",
            reference=None,
            dataset={"path": "local/squares", "revision": "1"},
            type="Any2AnyRetrieval",
            category="t2i",
            modalities=["text", "image"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="recall_at_1",
            date=("2026-01-01", "2026-01-02"),
            domains=["Constructed"],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, **_):
            pictures = {"id": [f"p{i}" for i in range(8)], "image": [record["image"] for record in pairs]}
            queries = {"id": [f"q{i}" for i in range(16)], "text": TEXTS}
            split = RetrievalSplitData(
                corpus=Dataset.from_dict(pictures),
                queries=Dataset.from_dict(queries),
                relevant_docs={f"q{i}": {f"p{i % 8}": 1} for i in range(16)},
                top_ranked=None,
            )
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    cache = mteb.cache.ResultCache(tmp_path) if hasattr(mteb, "cache") else None
    results = mteb.evaluate(MtebModel(model), [Squares()], cache=cache, encode_kwargs={"batch_size": 3})
    scores = results.task_results[0].scores["test"][0]
    assert scores["recall_at_1"] == pytest.approx(recall[1][0], abs=1e-4)
    assert scores["recall_at_5"] == pytest.approx(recall[5][0], abs=1e-4)


def test_mteb_sts(tmp_path):
    """An STS task on a model of texts alone gives the correlations of our own protocol."""
    mteb = pytest.importorskip("mteb")
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    words = train_tokenizer(TEXTS * 9, 300)
    bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = text_encoder(bert, tokenizer=words, pooling="mean").eval()
    rng = np.random.default_rng(0)
    numbers = rng.integers(16, size=(40, 2)).tolist()
    shared = [len({*TEXTS[a].split()} & {*TEXTS[b].split()}) for a, b in numbers]  # which an untrained model tells, too
    pairs = [(TEXTS[a], TEXTS[b], float(count)) for (a, b), count in zip(numbers, shared, strict=True)]
    ours = Records([{"text": a, "text2": b, "score": score} for a, b, score in pairs], name="squares")

    class Alike(AbsTaskSTS):
        metadata = TaskMetadata(
            name="Alike",
            description="How alike are two squares?",
            reference=None,
            dataset={"path": "local/alike", "revision": "1"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
            date=("2026-01-01", "2026-01-02"),
            domains=["Constructed"],
            task_subtypes=[],
            license="cc0-1.0",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
        )

        def load_data(self, **_):
            columns = dict(zip(("sentence1", "sentence2", "score"), map(list, zip(*pairs, strict=True)), strict=True))
            self.dataset = {"test": Dataset.from_dict(columns)}
            self.data_loaded = True

    cache = mteb.cache.ResultCache(tmp_path) if hasattr(mteb, "cache") else None
    results = mteb.evaluate(MtebModel(model), [Alike()], cache=cache, encode_kwargs={"batch_size": 7})
    scores = results.task_results[0].scores["test"][0]
    expected = evaluate(model, ours, ["sts"])["sts"]
    assert expected["spearman"] > 0.2
    assert scores["main_score"] == pytest.approx(expected["spearman"], abs=1e-4)
    assert scores["cosine_pearson"] == pytest.approx(expected["pearson"], abs=1e-4)


def test_similarities_are_cosines(model):
    wrapped = MtebModel(model)
    a, b = np.random.default_rng(0).normal(size=(2, 3, 16))
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(wrapped.similarity(a, b), cosine, atol=1e-6)
    np.testing.assert_allclose(wrapped.similarity_pairwise(a, b), np.diag(cosine), atol=1e-6)
