#!/usr/bin/env bash
# usearch 2.26.6: an index of inner products in int8 forgets how long the vectors are.
#
# Behaviour: Index(metric="ip", dtype="i8") scales every vector, query included, by itself to the range of int8. Of two
# vectors in one direction, of length 1 and 10, both come back with one distance (-16128, where f32 has 0 and -9). On
# 2,000 random vectors of lengths 0.5 to 2 exact search of the i8 index finds 40 % of the ten largest inner products and
# 94 % of the ten largest cosines; f32 finds 100 % and 39 %. No error, no warning.
# In nearfar: every vector of an index has length 1, quantised kinds included.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q numpy==2.4.6 usearch==2.26.6
env/bin/python - <<'PYTHON'
import numpy as np
from usearch.index import Index


def search(vectors, queries, count, dtype):
    index = Index(ndim=vectors.shape[1], metric="ip", dtype=dtype)
    index.add(np.arange(len(vectors)), vectors)
    return index.search(queries, count, exact=True)


def share(keys, scores):
    best = scores.argsort(1)[:, ::-1][:, : keys.shape[1]]
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(keys, best)]))


one_direction = np.zeros((2, 64), "f4")
one_direction[:, 0] = 1, 10
distances = {dtype: np.sort(search(one_direction, one_direction[:1], 2, dtype).distances.ravel()) for dtype in ("f32", "i8")}
print("lengths 1 and 10:", distances)
assert distances["f32"].tolist() == [-9, 0] and distances["i8"][0] == distances["i8"][1]

rng = np.random.default_rng(0)
unit = rng.normal(size=(2000, 64)).astype("f4")
unit /= np.linalg.norm(unit, axis=1, keepdims=True)
vectors = unit * rng.uniform(0.5, 2, size=(2000, 1)).astype("f4")
queries = rng.normal(size=(200, 64)).astype("f4")
for dtype in ("f32", "bf16", "i8"):
    keys = np.asarray(search(vectors, queries, 10, dtype).keys)
    inner, cosine = share(keys, queries @ vectors.T), share(keys, queries @ unit.T)
    print(f"{dtype}: {inner:.3f} of the ten largest inner products, {cosine:.3f} of the ten largest cosines")
    assert (inner > 0.99 and cosine < 0.45) if dtype != "i8" else (inner < 0.45 and cosine > 0.9)
PYTHON
echo "as described"
