"""Commits of chunks: the writer, its lanes, and the limits that hold them back."""
