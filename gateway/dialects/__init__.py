"""Dialects: the meaning of frames, and the streams and subscriptions that peers may open."""
