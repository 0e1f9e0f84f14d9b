"""The training loop: `train`, its settings, and what it gives back. Recipes are in `nearfar.training.recipe`."""

from nearfar.training.config import TrainConfig
from nearfar.training.features import precompute
from nearfar.training.guard import NotFinite
from nearfar.training.loop import train
from nearfar.training.run import Run

__all__ = ["NotFinite", "Run", "TrainConfig", "precompute", "train"]
