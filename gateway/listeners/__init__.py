"""Listeners of a configuration: admission, and the PROXY header before it."""
