"""Tokenizers and chat rendering."""
