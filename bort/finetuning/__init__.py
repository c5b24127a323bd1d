"""From a task to a model (arXiv 2010.10499, §5)."""
