"""Run folders: whose they are, whether they are finished, and what they tell."""
