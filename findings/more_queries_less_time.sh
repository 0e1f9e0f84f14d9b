#!/usr/bin/env bash
# faiss-cpu 1.15.1: a flat index takes several times as long for 240 queries as for 260, of 512 numbers.
#
# Behaviour: IndexFlatIP.search and faiss.knn multiply matrices by BLAS from a number of queries on, as earlier versions
# did from 20; but distance_compute_blas_threshold is 128,000 here, and what is compared with it is the number of queries
# times their width. Of 512 numbers 250 queries reach it. Below it each query is compared with each vector in turn: 249
# queries take about ten times the CPU seconds of 251 on the processor tried. The hits are the same; only the time jumps.
# Padding 100 queries with rows of zeros to 251 makes their search faster.
# In nearfar: from 20 queries on an exact index multiplies matrices itself, and where faiss would, too, by the faster.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q faiss-cpu==1.15.1 numpy==2.4.6
OMP_NUM_THREADS=1 env/bin/python - <<'PYTHON'
import time

import faiss
import numpy as np

WIDTH = 512
random = np.random.default_rng(0)
vectors = random.standard_normal((20_000, WIDTH), dtype=np.float32)
queries = random.standard_normal((251, WIDTH), dtype=np.float32)
index = faiss.IndexFlatIP(WIDTH)
index.add(vectors)
print("faiss", faiss.__version__, "threshold", faiss.cvar.distance_compute_blas_threshold)


def seconds(count):
    """CPU seconds of a search, the least of five."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        index.search(queries[:count], 10)
        taken.append(time.process_time() - began)
    return min(taken)


taken = {count: seconds(count) for count in (100, 249, 251)}
for count, each in taken.items():
    print(f"{count} queries: {each:.3f} s")
_, few = index.search(queries[:249], 10)
_, many = index.search(queries, 10)
assert faiss.cvar.distance_compute_blas_threshold == 128_000
assert (few == many[:249]).mean() > 0.999
assert taken[249] > 2 * taken[251], taken
assert taken[100] > taken[251], taken
PYTHON
echo "as described"
