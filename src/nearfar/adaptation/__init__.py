"""Somebody's own pairs, and the best model that they allow: `nearfar.adapt`."""

from nearfar.adaptation.adapt import adapt
from nearfar.adaptation.outcome import Adapted
from nearfar.adaptation.trials import Trial

__all__ = ["Adapted", "Trial", "adapt"]
