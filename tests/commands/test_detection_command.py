"""`nearfar evaluate --protocols detection` on a file of boxes, alone and with the model before fine-tuning beside."""

import json

import pytest
import torch
from PIL import Image

from nearfar.cli import main
from nearfar.data import train_tokenizer
from nearfar.evaluation import load_results
from nearfar.models import create, detector

pytest.importorskip("pycocotools")


@pytest.fixture
def folder(tmp_path):
    """Two models of one space, and pictures of a light square each with its box."""
    vit = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vit |= {"intermediate_size": 32, "patch_size": 4, "initializer_range": 0.2}
    bert = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert |= {"intermediate_size": 32, "max_position_embeddings": 32, "initializer_range": 0.2}
    for seed, name in enumerate(("before", "after")):
        torch.manual_seed(seed)
        tokenizer = train_tokenizer(["a cat", "an owl"], 300)
        pair = create(image=vit, text=bert, tokenizer=tokenizer, image_size=16, embed_dim=8)
        made = detector(pair, window=2, levels=(4,), width=8, convolutions=1, hidden=16)
        made.save_pretrained(tmp_path / name)
    images, annotations = [], []
    for i in range(4):
        picture = Image.new("RGB", (16, 16), "black")
        picture.paste("white", (4, 4, 12, 12))
        picture.save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 16, "height": 16})
        annotations.append({"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 8, 8], "area": 64})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "owl"}]
    boxes = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path


def test_the_frozen_model_joins_the_scores_and_the_report_draws_boxes(folder, capsys):
    scores = {}
    for name, more in {"alone": [], "joined": ["--frozen-model", str(folder / "before")]}.items():
        out, report = folder / f"{name}.json", folder / name
        command = ["evaluate", str(folder / "after"), "--on", str(folder / "boxes.json"), "--protocols", "detection"]
        command += ["--base-classes", "cat", *more, "--json", str(out), "--report", str(report)]
        assert main(command) in (0, None)
        result = load_results(out)["detection"]
        assert {"AP", "AP50", "AP50_base", "AP50_novel"} <= result.metrics.keys()
        assert result.details["frozen"] == (more[1] if more else None)
        assert 'alt="boxes of cat"' in (report / "report.html").read_text()
        scores[name] = [each["score"] for each in result.details["examples"][0]["detections"]]
    assert scores["alone"] != scores["joined"]
    assert "AP50 novel" in capsys.readouterr().out.replace("_", " ")
