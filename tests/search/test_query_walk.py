"""What a query imports of nearfar: no loader, no loss, no method, no training, and no model that attends across."""

import json
import re
import subprocess
import sys

from nearfar.data import train_tokenizer
from nearfar.models import create
from nearfar.search import build

NOT_NEEDED = (
    "nearfar.adaptation",
    "nearfar.classifiers",
    "nearfar.data.batches.loader",
    "nearfar.data.pictures.image_field",
    "nearfar.data.fields.text",
    "nearfar.data.fields.usual",
    "nearfar.data.pictures.views",
    "nearfar.data.mining",
    "nearfar.evaluation",
    "nearfar.losses",
    "nearfar.methods",
    "nearfar.models.dual.pretrained",
    "nearfar.models.fusion",
    "nearfar.models.image.image_encoder",
    "nearfar.models.language",
    "nearfar.models.presets",
    "nearfar.ops",
    "nearfar.search.page",
    "nearfar.training",
)
MOST = 75
"""Files of nearfar that a query may import, packages' own included. It imports 75; with the fused sums over all pairs
and the makers of models it would be 98."""

CODE = """
import json, sys
from nearfar import cli
for last in ("--json", "--top=3"):
    cli.main([*sys.argv[1:], last])
    modules = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    kept = [name for name, file in modules.items() if file and name.partition(".")[0] in ("nearfar", "pandas")]
    print("IMPORTED", json.dumps(sorted(kept)))
"""


def test_a_query_imports_what_it_uses(world, tmp_path):
    model = create("tiny", tokenizer=train_tokenizer(["a red disc"], 300)).eval()
    model.save_pretrained(tmp_path / "model")
    build(model, world, tmp_path / "index", model=str(tmp_path / "model"))
    command = [sys.executable, "-c", CODE, "search", "red", "--index", str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    hits, imported, shown, later = re.split(r"IMPORTED (.*)\n", done.stdout)[:4]
    assert len(json.loads(hits)) == 8
    modules = json.loads(imported)
    assert "pandas" not in modules, "it takes a second, and pyarrow imports it by itself in some of its functions"
    assert [name for name in modules if any(name == room or name.startswith(f"{room}.") for room in NOT_NEEDED)] == []
    assert len(modules) <= MOST
    assert "8 pictures" in shown, "the items are counted for people"
    assert "pandas" not in json.loads(later)
