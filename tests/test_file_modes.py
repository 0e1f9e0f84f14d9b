"""Who may read what is written, the umask says, whichever library wrote it: safetensors alone would say its owner."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import os, sys
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

import nearfar
from nearfar import files
from nearfar.data import Records, train_tokenizer
from nearfar.methods.image_text.clip import CLIP
from nearfar.models.language import language_model, text_encoder
from nearfar.search.index.building import build

colours = ["red", "green", "blue", "white"]
tokenizer = train_tokenizer([f"a {c} square" for c in colours] * 9, 300)
records = [{"image": Image.new("RGB", (64, 64), c), "text": f"a {c} square", "index": i} for i, c in enumerate(colours)]
source = Records(records, name="squares")
bert = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
vit = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 32}

for umask in sys.argv[2:]:
    os.umask(int(umask, 8))
    out = Path(sys.argv[1]) / umask
    files.write(out / "written", "text")
    with files.whole(out / "whole.safetensors") as scratch:
        save_file({"x": torch.zeros(2)}, scratch)
    with files.new_folder(out / "new") as scratch:
        (scratch / "below").mkdir(mode=0o700)
        save_file({"x": torch.zeros(2)}, scratch / "below" / "x.safetensors")
    with files.filled(out / "new") as scratch:
        save_file({"x": torch.zeros(2)}, scratch / "y.safetensors")
    model = nearfar.models.create(image=vit, text=bert, image_size=64, tokenizer=tokenizer, embed_dim=8)
    text_encoder(bert, tokenizer=tokenizer).save_pretrained(out / "texts")
    language_model("tiny", tokenizer=tokenizer).save_pretrained(out / "language")
    nearfar.train(CLIP(model), source, validation=source, epochs=1, batch_size=4, out=out / "run")
    model.add_lora("text").save_adapters(out / "adapters")
    build(model, source, out / "index", model=str(out / "run" / "model"))
    nearfar.evaluation.embed(model, source).save(out / "embeddings.safetensors")
"""


def test_every_file_and_folder_has_the_modes_of_the_umask(tmp_path):
    subprocess.run([sys.executable, "-c", CHILD, tmp_path, "022", "077"], check=True, timeout=240)
    for umask in ("022", "077"):
        check(tmp_path / umask, int(umask, 8))


def check(out, umask):
    written = [path for path in [out, *out.rglob("*")] if not path.is_symlink()]
    names = {path.name for path in written}
    assert {"model.safetensors", "adapters.safetensors", "method.safetensors", "optimizer.pt", "manifest.json"} <= names
    assert {"report.html", "x.safetensors", "y.safetensors", "tokenizer.json", "below"} <= names
    others = ~umask
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in written}
    wrong = {
        str(p.relative_to(out)): oct(m) for p, m in modes.items() if m != (0o777 if p.is_dir() else 0o666) & others
    }
    assert wrong == {}
    assert not [path for path in written if path.name.endswith(".tmp")]


def test_an_old_file_is_replaced_by_one_of_the_umask(tmp_path):
    from nearfar import files

    kept = files.write(tmp_path / "a", "before")
    kept.chmod(0o600)
    usual = Path(tmp_path / "b")
    usual.touch()
    files.write(kept, "after")
    assert stat.S_IMODE(kept.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_in_a_new_folder_opens_nothing_elsewhere(tmp_path):
    from nearfar import files

    private = tmp_path / "private"
    private.touch(mode=0o600)
    with files.new_folder(tmp_path / "new") as scratch:
        (scratch / "link").symlink_to(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
