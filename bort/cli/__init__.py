"""Hydra's two programs, train and search: from a composed configuration to a job."""
