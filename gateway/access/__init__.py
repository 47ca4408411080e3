"""Identities and rights of peers: tokens, grants, rates and limits of connections."""
