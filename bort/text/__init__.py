"""Text: reading documents, splitting them, finding near-copies, and tokenizing."""
