"""Recipes: YAML to typed stages and back."""
