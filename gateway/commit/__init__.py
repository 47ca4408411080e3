"""From chunks to commits: the writer, its lanes, and what holds them back."""
