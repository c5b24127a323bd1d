"""The parametric family B (arXiv 2010.10499, §2) and the folders that hold its models."""
