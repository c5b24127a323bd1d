"""Agora (arXiv 2010.07990): a small model taught by its mistakes, with a teacher as judge."""
