"""Answers of a saved model to texts and tables: `python -m bort.predict`."""
