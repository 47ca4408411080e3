"""C{gateway send}: what it reads, how it sends that, and what it keeps of it."""
