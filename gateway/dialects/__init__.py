"""What frames ask for: the dialects, and what a peer may have open in one."""
