"""The training loop: `train`, its settings, and what it gives back. Recipes are in `nearfar.training.recipe`."""

from nearfar.embedding.features import precompute
from nearfar.training.config import TrainConfig
from nearfar.training.loop.guard import NotFinite
from nearfar.training.loop.run import Run
from nearfar.training.loop.training_loop import train

__all__ = ["NotFinite", "Run", "TrainConfig", "precompute", "train"]
