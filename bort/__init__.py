"""Find, pre-train, fine-tune and ship the optimal BERT for a text, a teacher and a machine."""

__version__ = "0.1.0"
