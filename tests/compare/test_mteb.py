"""A model of nearfar in MTEB and in CLIP_benchmark: each gives the figure of our own protocol, on local data."""

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.data import Records, train_tokenizer
from nearfar.evaluation import embed, evaluate
from nearfar.evaluation.peers.clip_benchmark_model import clip_benchmark_model
from nearfar.evaluation.peers.mteb_model import MtebModel
from nearfar.models import create

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


def test_similarities_are_cosines(model):
    wrapped = MtebModel(model)
    a, b = np.random.default_rng(0).normal(size=(2, 3, 16))
    cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(wrapped.similarity(a, b), cosine, atol=1e-6)
    np.testing.assert_allclose(wrapped.similarity_pairwise(a, b), np.diag(cosine), atol=1e-6)
