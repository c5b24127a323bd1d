"""Teachers of every family: what encoders of other people can give to a student."""
