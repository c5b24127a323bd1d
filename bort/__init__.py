"""Find, pre-train, fine-tune and ship the optimal BERT for a text, a teacher and a machine."""

__version__ = "0.1.0"


def load(name):
    """The model of a run folder, a Hugging Face folder or a hub name, for `.predict([...])`."""
    from bort import predict  # torch is loaded only now

    return predict.load(name)
