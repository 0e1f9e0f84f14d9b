#!/usr/bin/env bash
# webdataset 1.0.2 and datasets 5.2.0: one shard, one photo, two orientations.
#
# Behaviour: the photo of a phone held upright is stored lying, with its turn in EXIF. webdataset's decode("pil") gives it
# as stored (40 x 20); datasets, reading the same shard by its own "webdataset" form, whole or streamed, or the file
# itself, gives it turned (20 x 40). A model trained on shards through the one and measured through the other sees every
# such photo sideways.
# In nearfar: the turn is applied in every door, shards included.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q numpy==2.4.6 pillow==13.0.0 webdataset==1.0.2 datasets==5.2.0
HF_HOME="$work/hub" HF_HUB_OFFLINE=1 env/bin/python - <<'PYTHON'
import io
import tarfile

import datasets
import webdataset
from PIL import Image

datasets.disable_progress_bars()
photo = Image.new("RGB", (40, 20), "white")
photo.paste("red", (0, 0, 20, 20))
turned = Image.Exif()
turned[0x0112] = 6  # a quarter turn to the right shows it upright
stored = io.BytesIO()
photo.save(stored, "JPEG", exif=turned)
with tarfile.open("shard.tar", "w") as shard:
    for name, content in (("a.jpg", stored.getvalue()), ("a.txt", b"red above white")):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        shard.addfile(member, io.BytesIO(content))
sizes = {"webdataset": next(iter(webdataset.WebDataset("shard.tar", shardshuffle=False).decode("pil")))["jpg"].size}
for streaming in (False, True):
    rows = datasets.load_dataset("webdataset", data_files="shard.tar", split="train", streaming=streaming)
    sizes[f"datasets, streaming={streaming}"] = next(iter(rows))["jpg"].size
print(sizes)
assert sizes["webdataset"] == (40, 20)
assert sizes["datasets, streaming=False"] == sizes["datasets, streaming=True"] == (20, 40)
PYTHON
echo "as described"
