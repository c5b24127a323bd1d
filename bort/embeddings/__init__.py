"""Sentence embeddings: a text becomes a vector, and near vectors mean the same."""
