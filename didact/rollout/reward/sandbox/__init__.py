"""Runs a stranger's code in a process that can reach nothing."""
