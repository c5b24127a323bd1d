"""What a task is: facts, files, rows, token ids and scores."""
