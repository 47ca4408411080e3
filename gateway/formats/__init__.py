"""Formats of messages: frames in, fields or a text out."""
