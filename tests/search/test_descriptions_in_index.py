"""Pictures found through what was written of them: no vision, no picture, and together with an index of pictures."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from nearfar import cli
from nearfar.data import open_source, train_tokenizer
from nearfar.errors import UserError
from nearfar.models import text_encoder
from nearfar.search import build, fused_with, query
from search.colours import SHAPES

BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXTS = [f"a {colour} {shape} Objects: {shape}" for colour in ("red", "green", "blue") for shape in SHAPES]


@pytest.fixture
def described(photos, tmp_path):
    """A model of sentences, and a table of descriptions of nine photos."""
    torch.manual_seed(0)
    model = text_encoder(BERT | {"intermediate_size": 32}, tokenizer=train_tokenizer(TEXTS * 3, 300), pooling="mean")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5 if weight.ndim > 1 else 1)
    model.eval().save_pretrained(tmp_path / "model")
    files = [photos / f"{text.split()[1]}-{text.split()[2]}.png" for text in TEXTS]
    lines = [{"row": n, "image": str(file), "text": TEXTS[n]} for n, file in enumerate(files)]
    (tmp_path / "descriptions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


VISION = ("torchvision", "timm", "nearfar.models.vlm", "nearfar.models.fusion", "nearfar.models.image.image_encoder")
VISION += ("nearfar.models.dual.dual_encoder", "nearfar.data.pictures.views", "nearfar.data.pictures.image_field")
VISION += ("PIL.PngImagePlugin", "PIL.JpegImagePlugin")
"""What embeds pictures, or opens one."""
CODE = """
import sys
from nearfar import cli
cli.main(sys.argv[1:])
print(*sorted(name for name in sys.modules if name.startswith(("nearfar.", "PIL", "torchvision", "timm"))), sep="\\n")
"""


def test_an_index_of_descriptions_is_searched_without_vision_and_without_pictures(
    described, photos, monkeypatch, capsys
):
    monkeypatch.chdir(described)
    cli.main(["index", "model", "descriptions.jsonl", "--keep", "image"])
    assert "9 texts" in capsys.readouterr().out
    words = ["search", "a red disc", "--json", "--top", "4"]
    cli.main(words)
    hits = capsys.readouterr().out
    shutil.rmtree(photos)
    cli.main(words)
    assert capsys.readouterr().out == hits
    first = json.loads(hits)[0]
    assert first["caption"] in TEXTS
    assert first["kept"]["image"].endswith(".png")
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, timeout=240, check=True)
    imported = done.stdout.split("]\n")[-1].split()
    assert "nearfar.search.querying.query" in imported
    assert [name for name in imported if name.startswith(VISION)] == []
    cli.main(
        ["index", "model", "descriptions.jsonl", "--out", "again", "--keep", "image"]
    )  # nor does indexing need them
    capsys.readouterr()
    cli.main([*words, "--index", "again"])
    assert [hit["caption"] for hit in json.loads(capsys.readouterr().out)] == [
        hit["caption"] for hit in json.loads(hits)
    ]


def test_the_model_of_such_an_index_has_no_layer_of_pictures(described):
    import nearfar

    model = nearfar.load(described / "model")
    assert not [name for name, part in model.named_modules() if isinstance(part, torch.nn.Conv2d)]
    assert not hasattr(model, "encode_image")


def test_an_edited_description_alone_is_embedded_again(described, monkeypatch, capsys):
    monkeypatch.chdir(described)
    cli.main(["index", "model", "descriptions.jsonl"])
    table = described / "descriptions.jsonl"
    table.write_text(table.read_text().replace(TEXTS[4], "blue disc tree"))
    cli.main(["index", "model", "descriptions.jsonl"])
    assert "1 updated, 8 unchanged" in capsys.readouterr().out
    cli.main(["search", "blue disc tree", "--json", "--top", "1"])
    assert json.loads(capsys.readouterr().out)[0]["caption"] == "blue disc tree"


def test_each_description_finds_itself(described):
    import nearfar

    model = nearfar.load(described / "model")
    index = build(model, open_source(described / "descriptions.jsonl"), described / "index")
    assert len(np.unique(index.vectors.round(5), axis=0)) == 9
    for text in TEXTS:
        hit = query(index, model, text=text, top=1)[0]
        assert (hit.caption, hit.score) == (text, pytest.approx(1, abs=1e-5))


def test_scores_of_descriptions_and_pictures_are_fused(described, photos, encoder):
    import nearfar

    model = nearfar.load(described / "model")
    texts = build(model, open_source(described / "descriptions.jsonl"), described / "index", keep=["image"])
    pictures = build(encoder, open_source(photos, captions="none"), described / "pictures")

    def ranked(weight):
        rerank = fused_with(pictures, encoder, weight=weight)
        return query(texts, model, text="green disc", top=9, rerank=rerank, depth=9)

    plain = query(texts, model, text="green disc", top=9)
    by_picture = query(pictures, encoder, text="green disc", top=9)
    of_text = {hit.kept["image"]: hit.score for hit in plain}
    of_picture = {hit.path: hit.score for hit in by_picture}
    assert [hit.key for hit in ranked(0)] == [hit.key for hit in plain]
    assert [hit.score for hit in ranked(1)] == pytest.approx([hit.score for hit in by_picture], abs=1e-6)
    for hit in ranked(0.3):
        path = hit.kept["image"]
        assert hit.score == pytest.approx(0.7 * of_text[path] + 0.3 * of_picture[path], abs=1e-6)
    scores = [hit.score for hit in ranked(0.3)]
    assert scores == sorted(scores, reverse=True)


def test_what_cannot_be_fused_is_named(described, photos, encoder):
    import nearfar

    model = nearfar.load(described / "model")
    pictures = build(encoder, open_source(photos, captions="none"), described / "pictures")
    bare = build(model, open_source(described / "descriptions.jsonl"), described / "bare")
    with pytest.raises(UserError, match=r"weight=1\.5"):
        fused_with(pictures, encoder, weight=1.5)
    with pytest.raises(UserError, match="index the descriptions with --keep image"):
        query(bare, model, text="red", rerank=fused_with(pictures, encoder))
    kept = build(model, open_source(described / "descriptions.jsonl"), described / "index", keep=["image"])
    pictures = pictures.remove([hit.key for hit in query(pictures, encoder, text="red", top=1)])
    with pytest.raises(UserError, match=r"is not in the index .*: index the same pictures there"):
        query(kept, model, text="red", rerank=fused_with(pictures, encoder), depth=9)
