"""The surrogates of parameters and latency (arXiv 2010.10499, §3.1)."""
