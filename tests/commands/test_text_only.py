"""A model that reads texts alone, by the command line from training to a hit."""

import json

import pytest
import yaml

from nearfar import cli
from nearfar.models.language.text_model import text_encoder

LINES = [f"a {colour} {thing} in the {place}" for colour in ("red", "blue") for thing in ("car", "cat") for place in
         ("rain", "yard", "snow", "park")]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """16 lines, and a table of pairs with scores."""
    lines, pairs = tmp_path / "lines.jsonl", tmp_path / "pairs.jsonl"
    lines.write_text("".join(json.dumps({"text": line, "label": i % 2}) + "\n" for i, line in enumerate(LINES)))
    scored = [(a, b, len(set(a.split()) & set(b.split()))) for a in LINES[:4] for b in LINES[4:7]]
    pairs.write_text("".join(json.dumps({"text": a, "text2": b, "score": s}) + "\n" for a, b, s in scored))
    return lines, pairs


@pytest.mark.usefixtures("no_drawings")
def test_train_evaluate_index_search(table, tmp_path, capsys):
    lines, pairs = table
    recipe = tmp_path / "texts.yaml"
    values = {
        "data": {"train": str(lines), "validation": str(lines), "views": "none", "max_length": 16},
        "model": {"make": "language_model", "name": "tiny", "vocab_size": 300},
        "method": {"name": "simctg"},
        "training": {"steps": 3, "batch_size": 8, "lr": "1e-3", "log_every": 1},
        "evaluation": {"data": str(pairs), "protocols": ["geometry", "similarity"], "watch": ["geometry"]},
    }
    recipe.write_text("# Texts alone.\n" + yaml.safe_dump(values))
    run = tmp_path / "run"
    cli.main(["train", str(recipe), "--out", str(run)])
    report = (run / "report.html").read_text()
    assert "different texts." in report
    assert "Neighbours" in report
    assert "text embeddings, laid out by" in report
    assert "similarity, Spearman" in report
    assert "0 images" not in report

    capsys.readouterr()
    hits_file = tmp_path / "found.json"
    cli.main(
        ["evaluate", str(run), "--on", str(pairs), "--protocols", "geometry", "similarity", "--json", str(hits_file)]
    )
    results = json.loads(hits_file.read_text())["results"]
    assert results["similarity"]["details"]["pairs"] == 12
    assert not [name for name in results["geometry"]["metrics"] if name.startswith("image")]
    cli.main(["evaluate", str(run), "--on", str(lines), "--report", str(tmp_path / "report")])
    shown = capsys.readouterr().out
    assert "retrieval is left out, as lines.jsonl has no pictures" in " ".join(shown.split())
    assert LINES[0] in (tmp_path / "report" / "report.html").read_text()

    cli.main(["index", str(run), str(lines), "--out", str(tmp_path / "index")])
    assert "16 texts, 128-d" in capsys.readouterr().out
    cli.main(["search", LINES[5], "--index", str(tmp_path / "index"), "--json"])
    first = json.loads(capsys.readouterr().out)[0]
    assert first["caption"] == LINES[5]
    assert first["score"] == pytest.approx(1, abs=1e-4)
    with pytest.raises(SystemExit, match="takes no pictures: search by text"):
        cli.main(["search", "--image", str(lines), "--index", str(tmp_path / "index")])


def test_a_sentence_encoder_by_name_and_folder(table, tmp_path, capsys):
    """all-MiniLM-L6-v2 comes in a package, as sentence-transformers wrote it."""
    lines, _ = table
    text_encoder("minilm").save_pretrained(tmp_path / "saved")
    cli.main(["index", "minilm", str(lines), "--out", str(tmp_path / "index")])
    cli.main(["search", "a feline of azure colour", "--index", str(tmp_path / "index"), "--json"])
    hits = json.loads(capsys.readouterr().out.partition("[")[2].join(["[", ""]))
    assert "blue cat" in hits[0]["caption"]
    cli.main(["search", LINES[3], "--index", str(tmp_path / "index"), "--model", str(tmp_path / "saved"), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["caption"] == LINES[3]
