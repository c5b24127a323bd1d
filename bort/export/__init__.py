"""From a model to a folder for production, checked before it gets its name."""
