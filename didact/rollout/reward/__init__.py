"""Rewards: one short file each, with how a recipe says it."""
