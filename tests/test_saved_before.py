"""What version 0.1 saved still opens, and gives what it gave: `saved/version_0_1` was written by that version."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nearfar
from nearfar.data import load_image
from nearfar.evaluation import Embeddings
from nearfar.search import Index, query
from nearfar.search.index.items import Item
from nearfar.search.index.writer import IndexWriter
from nearfar.training import recipe

SAVED = Path(__file__).parent / "saved" / "version_0_1"
EXPECTED = json.loads((SAVED / "expected.json").read_text("utf-8"))


@pytest.mark.parametrize("folder", ["run", "run/model"])
def test_a_model_opens_and_embeds_as_before(folder):
    model = nearfar.load(SAVED / folder)
    with torch.no_grad():
        text = model.encode_text(model.tokenize(EXPECTED["texts"]), normalize=True)
        image = model.encode_image(model.preprocess([load_image(SAVED / "picture.png")]), normalize=True)
    torch.testing.assert_close(text, torch.tensor(EXPECTED["text"]), atol=2e-5, rtol=0)
    torch.testing.assert_close(image, torch.tensor(EXPECTED["image"]), atol=2e-5, rtol=0)


def test_a_run_goes_on_to_the_loss_it_had(tmp_path):
    run = shutil.copytree(SAVED / "run", tmp_path / "run")
    resumed = recipe.load(run, {"progress": False}).run(run, resume=True)
    assert resumed.step == 4
    assert resumed.history[-1]["loss"] == pytest.approx(EXPECTED["loss"], abs=1e-4)
    assert (run / "checkpoints" / "last").resolve().name == "step-00000004"


def test_an_index_is_searched_as_before(tmp_path):
    index = Index(shutil.copytree(SAVED / "pictures.index", tmp_path / "pictures.index"))
    hits = query(index, nearfar.load(SAVED / "run"), text="a thing", top=3)
    assert [Path(hit.path).name for hit in hits] == EXPECTED["hits"]


def test_an_index_is_added_to(tmp_path):
    """It has no column of ids yet."""
    folder = shutil.copytree(SAVED / "pictures.index", tmp_path / "pictures.index")
    before = Index(folder)
    old = before.table.records(np.arange(len(before)))
    assert [record["id"] for record in old] == before.table["id"].to_pylist() == [None] * len(before)
    with IndexWriter.extend(folder) as writer:
        writer.put(Item(key="photos:new", stamp="", source="photos", row=-1, id=7), np.array(before.vectors[0]))
        writer.commit(final=True)
    after = Index(folder)
    records = after.table.records(np.arange(len(after)))
    assert records[:-1] == old
    assert after.table["id"].to_pylist() == [*[None] * len(before), 7]
    np.testing.assert_array_equal(after.vectors, np.array(before.vectors)[[*range(len(before)), 0]])


def test_embeddings_open():
    actual = Embeddings.load(SAVED / "photos.safetensors")
    assert (len(actual.image), len(actual.text), actual.image.shape[1]) == (6, 6, 8)
    torch.testing.assert_close(actual.image[0], torch.tensor(EXPECTED["image"][0]), atol=2e-5, rtol=0)
