"""Counters that the gateway's parts keep of their work."""
