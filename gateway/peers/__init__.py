"""Connections of peers, and the state that the peers of a listener share."""
