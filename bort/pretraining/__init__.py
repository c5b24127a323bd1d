"""Pre-training: text becomes a student distilled from a teacher (arXiv 2010.10499, §4)."""
