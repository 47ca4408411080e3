"""Several processes that are one gateway: a parent that accepts, and workers that do the rest."""
