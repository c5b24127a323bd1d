"""The surrogates of parameters and latency, and W, which weighs them (arXiv 2010.10499, §3)."""
