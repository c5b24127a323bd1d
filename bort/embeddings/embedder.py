"""The model that embeds texts: an encoder of our own family, and the pooling of its states."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bort.embeddings.pooling import DEFAULT_MODE, Pooling, find_pooling, list_sentence_files
from bort.files.ownership import EMBEDDING, KIND
from bort.files.untrusted import read_json
from bort.models.bert import Classifier, Encoder, MaskedLM, ModelConfig
from bort.models.hf_config import OWN_FAMILIES
from bort.models.huggingface import load_masked_lm, load_model, load_tokenizer, save_model


class Embedder(nn.Module):
    """An encoder whose pooled states are the embeddings (B, E) of texts.

    encoder: is used as it is, not copied. pooling: how its states become an embedding.
    """

    output_name = "sentence_embedding"  # of an exported graph

    def __init__(self, encoder: Encoder, pooling: Pooling):
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    @property
    def config(self) -> ModelConfig:
        """The shape of the encoder."""
        return self.encoder.config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Compute the embeddings (B, E) of texts; the arguments are those of `Encoder.forward`."""
        states = self.encoder(input_ids, attention_mask, token_types)  # (B, S, H)
        return self.pooling.pool(states, attention_mask)


def make_embedder(encoder: Encoder) -> Embedder:
    """Make the model that bort trains: mean states, scaled to a length of 1."""
    return Embedder(encoder, Pooling(Path(), (DEFAULT_MODE,), is_unit=True))


def find_embedder(name: str) -> Embedder | None:
    """Open the model of a folder that says how its embeddings are made.

    None where the folder does not say, where a head answers something else, and where the encoder
    is of another family than our own. Raises BortError for damaged files.
    """
    pooling = find_pooling(name)
    if pooling is None:
        return None
    settings = read_json(pooling.folder / "config.json")
    if settings.get("model_type") not in OWN_FAMILIES or not _is_bare(settings):
        return None
    encoder = load_masked_lm(pooling.folder, head_required=False).encoder
    if pooling.length is not None:
        encoder.config.length = min(pooling.length, encoder.config.limit)
    return Embedder(encoder.eval(), pooling)


def _is_bare(settings: dict[str, Any]) -> bool:
    """Whether a folder's head, if it has one, is not what its user wants an answer from."""
    kind = settings.get(KIND)
    return kind in (None, EMBEDDING)


def load_shippable(name: str) -> tuple[MaskedLM | Classifier | Embedder, dict[int, str]]:
    """Open what can be exported: a model that embeds texts, or what `load_model` opens.

    Raises BortError as `load_model` does.
    """
    embedder = find_embedder(name)
    return load_model(name) if embedder is None else (embedder, {})


def save_embedder(embedder: Embedder, tokenizer: Any, folder: Path) -> None:
    """Write a folder that sentence-transformers, AutoModel and bort open.

    Raises BortError as `save_model` does.
    """
    encoder = embedder.encoder
    files = list_sentence_files(embedder.pooling, encoder.config.hidden, encoder.config.limit)
    save_model(encoder, tokenizer, folder, {KIND: EMBEDDING}, files=files)


def load_embedder_tokenizer(embedder: Embedder) -> Any:
    """Open the tokenizer of a model that was opened before; it cuts as the model does."""
    tokenizer = load_tokenizer(embedder.pooling.folder)
    tokenizer.model_max_length = min(tokenizer.model_max_length, embedder.config.limit)
    return tokenizer
