"""Typed settings: the defaults of every key, and what is refused before any work."""
