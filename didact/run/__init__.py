"""One life in its folder: stages, resume, report."""
