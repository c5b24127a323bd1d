"""The W-coefficient and the FPTAS (arXiv 2010.10499, §3.2; arXiv 2010.08512)."""
