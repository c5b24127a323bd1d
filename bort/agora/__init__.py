"""Agora: a small model learns from its mistakes, judged by a teacher (arXiv 2010.07990)."""
