"""One thread a worker: on shared cores two threads are slower than one."""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).parent))  # `from oracles import ...`
