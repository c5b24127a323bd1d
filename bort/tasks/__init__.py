"""Tasks: their facts, files, rows, token ids and scores."""
