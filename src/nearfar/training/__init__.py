"""The training loop: `train`, its settings, and what it gives back; `run_stages`, several in a row. Recipes are in
`nearfar.training.recipe`."""

from nearfar.embedding.features import precompute
from nearfar.training.config import TrainConfig
from nearfar.training.loop.guard import NotFinite
from nearfar.training.loop.run import Run
from nearfar.training.loop.training_loop import train
from nearfar.training.stages.finished import FinishedStage
from nearfar.training.stages.run_stages import Stage, run_stages

__all__ = ["FinishedStage", "NotFinite", "Run", "Stage", "TrainConfig", "precompute", "run_stages", "train"]
