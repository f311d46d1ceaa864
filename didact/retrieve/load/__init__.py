"""Loaders, one function a family: ``files.load`` takes any file to the documents in it."""
