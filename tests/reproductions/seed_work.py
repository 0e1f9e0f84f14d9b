"""What a process of its own runs for a seed: it must be found by its name there."""

import os

import torch


def threads_and_seed(seed):
    """The seed, and what tells one process from another."""
    return {"a": {"m": float(seed), "process": float(os.getpid()), "threads": float(torch.get_num_threads())}}
