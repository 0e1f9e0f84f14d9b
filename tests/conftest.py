"""One thread a worker: on shared cores two threads are slower than one. Memory and waiting as commands have them."""

import sys
from pathlib import Path

from nearfar.machine import prepare

prepare()

import torch  # noqa: E402

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))  # `from oracles import ...`
