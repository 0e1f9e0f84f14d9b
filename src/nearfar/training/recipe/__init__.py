"""Recipes: a run as one YAML file. `load` reads and checks one."""

from nearfar.training.recipe.recipe_file import Recipe, comment, find, launch_configurations, load, shipped

__all__ = ["Recipe", "comment", "find", "launch_configurations", "load", "shipped"]
