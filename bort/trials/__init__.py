"""The trainings of a search: what a candidate is, its error against T, and what is kept of it."""
