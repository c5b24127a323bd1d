"""Latency, size and memory on this machine, side by side."""
