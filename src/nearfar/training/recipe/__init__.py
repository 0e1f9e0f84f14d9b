"""Recipes: a run, or several stages of one, as one YAML file. `load` reads and checks one."""

from nearfar.recipes import comment, launch_configurations, shipped
from nearfar.training.recipe.load_recipe import find, load
from nearfar.training.recipe.recipe_file import Recipe
from nearfar.training.recipe.staged_recipe import StagedRecipe

__all__ = ["Recipe", "StagedRecipe", "comment", "find", "launch_configurations", "load", "shipped"]
