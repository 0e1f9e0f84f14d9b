"""A model that reads pictures alone, by the command line from training to a hit."""

import json

import pytest
import yaml
from PIL import Image, ImageDraw

from nearfar import cli

COLOURS = ("red", "blue", "green", "orange")


@pytest.fixture
def folder(tmp_path):
    """32 pictures: a disc or a square, in four colours, at four places."""
    made = tmp_path / "shapes"
    for shape in ("disc", "square"):
        (made / shape).mkdir(parents=True)
        for colour in COLOURS:
            for place in range(4):
                picture = Image.new("RGB", (48, 48), "white")
                box = (4 + 5 * place, 6, 26 + 5 * place, 28)
                draw = ImageDraw.Draw(picture)
                (draw.ellipse if shape == "disc" else draw.rectangle)(box, fill=colour)
                picture.save(made / shape / f"{colour}{place}.png")
    return made


@pytest.mark.usefixtures("no_drawings")
def test_train_evaluate_index_search(folder, tmp_path, capsys):
    recipe = tmp_path / "pictures.yaml"
    values = {
        "data": {"train": str(folder), "validation": str(folder)},
        "model": {"make": "image_encoder", "preset": "micro-resnet", "projector": {"hidden": 32, "out": 16}},
        "method": {"name": "simclr"},
        "training": {"steps": 3, "batch_size": 16, "lr": "1e-3", "warmup": 0, "log_every": 1},
        "evaluation": {"data": str(folder), "protocols": ["knn", "linear_probe", "geometry"], "watch": ["geometry"]},
    }
    recipe.write_text("# Pictures alone.\n" + yaml.safe_dump(values))
    run = tmp_path / "run"
    cli.main(["train", str(recipe), "--out", str(run)])
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert {"loss", "spread"} <= set(rows[0])
    assert 1 <= rows[-1]["val_geometry/image_effective_rank"] <= 32
    report = (run / "report.html").read_text()
    for shown in ("32 images", "Neighbours", "image embeddings, laid out by", "neighbours top 1", "effective rank"):
        assert shown in report
    assert "Signs of collapse" in report
    assert "captions" not in report.partition("<h2")[0]

    capsys.readouterr()
    results = tmp_path / "results.json"
    cli.main(["evaluate", str(run), "--on", str(folder), "--json", str(results), "--report", str(tmp_path / "shown")])
    assert list(json.loads(results.read_text())["results"]) == ["geometry"]
    assert "retrieval is left out, as" in capsys.readouterr().out

    index = str(tmp_path / "index")
    cli.main(["index", str(run), str(folder), "--out", index])
    assert "32 pictures, 128-d" in capsys.readouterr().out
    cli.main(["search", "--image", str(folder / "disc" / "red2.png"), "--index", index, "--json"])
    first = json.loads(capsys.readouterr().out)[0]
    assert first["path"].endswith("red2.png")
    assert first["score"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(SystemExit, match="takes no texts: search by a picture"):
        cli.main(["search", "a red disc", "--index", index])
