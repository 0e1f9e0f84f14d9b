#!/usr/bin/env bash
# pyarrow 26.0.1 beside pandas 3.0.6: making one scalar imports the whole of pandas.
#
# Behaviour: pa.scalar(0), pa.array([1]), a comparison such as pc.greater(column, 0), Table.take with a numpy array and
# ChunkedArray.to_numpy each import pandas where it is installed, more than 200 modules of which nothing is used: a second
# or more in the first query of a command that reads an index or a table.
# np.from_dlpack of a column, a cast, Array.from_buffers, and take with an Arrow array so made import nothing.
# In nearfar: a query of an index uses these alone, and a test holds that it leaves pandas out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q numpy==2.4.6 pyarrow==26.0.1 pandas==3.0.6
cat > one.py <<'PYTHON'
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

values = pa.Array.from_buffers(pa.int64(), 3, [None, pa.py_buffer(np.arange(3))])
column, table = pa.chunked_array([values]), pa.Table.from_arrays([values], ["n"])
assert "pandas" not in sys.modules
eval(sys.argv[1])
modules = sum(name.partition(".")[0] == "pandas" for name in sys.modules)
print(f"{sys.argv[1]}: imports {modules} modules of pandas")
assert modules > 200 if sys.argv[2] == "imports" else modules == 0
PYTHON
for call in 'pa.scalar(0)' 'pa.array([1])' 'pc.greater(column, 0)' 'table.take(np.arange(2))' 'column.to_numpy()'; do
    env/bin/python one.py "$call" imports
done
for call in 'np.from_dlpack(column.combine_chunks())' 'column.cast(pa.bool_())' 'table.take(values).to_pylist()'; do
    env/bin/python one.py "$call" "leaves out"
done
echo "as described"
