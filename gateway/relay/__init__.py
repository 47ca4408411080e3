"""Relay: another gateway, the centre, as the store of this one, which is at the edge."""
