"""From text to a distilled student (arXiv 2010.10499, §4)."""
