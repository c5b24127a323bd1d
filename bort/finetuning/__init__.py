"""Fine-tuning: a pre-trained encoder becomes a model of a task (arXiv 2010.10499, §5)."""
