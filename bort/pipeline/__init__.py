"""From text to a small model in production by one command."""
