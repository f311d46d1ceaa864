"""An index over documents: files to passages with exact places, found by their words and by their meaning."""
