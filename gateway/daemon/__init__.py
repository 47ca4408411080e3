"""Daemon: options, wiring, start and stop in order, reload, the embedded server."""
