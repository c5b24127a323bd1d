"""Documents, their split, near-copies among them, and the tokenizer."""
