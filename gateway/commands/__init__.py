"""Subcommands of the C{gateway} command."""
