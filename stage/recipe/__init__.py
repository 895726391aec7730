"""Recipes: YAML → checked sections."""
