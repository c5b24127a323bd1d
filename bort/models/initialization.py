"""Fresh weights: the starts of a masked LM, also from its teacher, and of a classifier's head."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from bort.errors import BortError, check_choice
from bort.models.arch import INITS
from bort.models.bert import Classifier, Embeddings, MaskedLM, ModelConfig, build_empty


@dataclass(frozen=True)
class EmbeddingTables:
    """The tables of a model, of any family, that turn ids into the states before its first layer.

    words (V, E); positions (P, E), those of the first token first, and types (T, E) are added to
    them. E is the hidden size, or the width of narrower embeddings (ALBERT, ELECTRA). positions,
    types, norm: None where the model has none; norm may lack a bias. decoder_bias (V,): None where
    the model has no masked-LM head. All are the model's own tensors, on its device, not copies.
    """

    words: Tensor
    positions: Tensor | None = None
    types: Tensor | None = None
    norm: nn.LayerNorm | None = None
    decoder_bias: Tensor | None = None

    @classmethod
    def from_model(cls, model: MaskedLM, has_head: bool = True) -> Self:
        """Take the tables of a model of our own family; has_head: whether its head was trained."""
        embeddings, offset = model.encoder.embeddings, model.config.position_offset
        types = embeddings.types
        return cls(
            embeddings.words.weight.detach(),
            embeddings.positions.weight.detach()[offset:],
            None if types is None else types.weight.detach(),
            embeddings.norm,
            model.head.bias.detach() if has_head else None,
        )


def build_model(
    config: ModelConfig, init: str = "default", seed: int = 0, teacher: MaskedLM | None = None
) -> MaskedLM:
    """A freshly initialised model; the same seed gives the same weights.

    init: `default` (made for small models), `paper` (N(0, 0.02) everywhere) or `teacher` (default,
    then what fits is taken from `teacher`). Raises BortError if init is unknown, or if the teacher
    is missing, narrower, or has another vocabulary.
    """
    check_choice("init", init, INITS)
    if init == "teacher" and teacher is None:
        raise BortError("init=teacher needs a teacher; set teacher.name, or use init=default")
    model = build_empty(config)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        draw_weights(model, 0.02 if init == "paper" else init_std(config.hidden), generator)
        if init != "paper":
            _shape_start(model)
        if init == "teacher":
            _take_from_teacher(model, teacher)
    return model


def build_classifier(
    body: MaskedLM,
    outputs: int,
    head: str = "linear",
    spans: int = 0,
    choices: bool = False,
    seed: int = 0,
    scale: tuple[float, float] | None = None,
) -> Classifier:
    """A classifier with the encoder of `body` (shared, not copied) and a fresh head."""
    with torch.device("meta"):
        model = Classifier(body.config, outputs, head, spans, choices, scale)
    model = model.to_empty(device="cpu")
    model.encoder = body.encoder
    generator = torch.Generator().manual_seed(seed)
    for layer in (model.dense, model.out):
        if layer is not None:
            draw_weights(layer, 0.02, generator)
    return model


@torch.no_grad()
def draw_weights(model: nn.Module, std: float, generator: torch.Generator) -> None:
    """Every matrix from N(0, std), biases 0, LayerNorms 1 and 0."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 2:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(isinstance(module, nn.LayerNorm) and name == "weight")


def init_std(hidden: int) -> float:
    """Standard deviation of fresh weights: small models stay on the unigram plateau at 0.02."""
    return 0.06 if hidden < 512 else 0.02


def _shape_start(model: MaskedLM) -> None:
    """Start values that get a small model off the unigram plateau sooner (measured)."""
    positions = model.encoder.embeddings.positions.weight
    # 0.084 at std 0.06; twice as much hurts.
    positions.copy_(1.4 * init_std(model.config.hidden) * compute_sinusoids(*positions.shape))
    for layer in model.encoder.layers:
        layer.attention.output.weight.zero_()
        layer.down.weight.zero_()
        layer.attention.key.weight.copy_(layer.attention.query.weight)


def compute_sinusoids(rows: int, hidden: int, base: float = 1000.0) -> Tensor:
    """Sines, then cosines, of geometrically spaced wavelengths, (rows, hidden)."""
    half = (hidden + 1) // 2
    angles = torch.arange(rows)[:, None] * base ** (-torch.arange(half) / half)  # (rows, half)
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :hidden]


def _take_from_teacher(model: MaskedLM, teacher: MaskedLM) -> None:
    ours, theirs = model.config, teacher.config
    if ours.vocab_size != theirs.vocab_size:
        raise BortError(
            f"the teacher's vocabulary has {theirs.vocab_size} tokens, the student's "
            f"{ours.vocab_size}; they must be the same (data.tokenizer=auto takes the teacher's)"
        )
    if ours.hidden > theirs.hidden:
        raise BortError(
            f"init=teacher needs arch.hidden={ours.hidden} to be at most the teacher's "
            f"{theirs.hidden}; use init=default"
        )
    _take_embeddings(model.encoder.embeddings, teacher.encoder.embeddings)
    model.head.bias.copy_(teacher.head.bias)
    if (ours.hidden, ours.heads, ours.intermediate) == (
        theirs.hidden,
        theirs.heads,
        theirs.intermediate,
    ):
        _take_layers(model, teacher)


def _take_embeddings(mine: Embeddings, source: Embeddings) -> None:
    """Word, position and type rows, projected to our width where it is smaller."""
    ours, theirs = mine.config, source.config
    # on the CPU, wherever the teacher is: every student of it starts from the same bits
    words, types = source.words.weight.cpu(), source.types.weight.cpu() if source.types else None
    start, rows = theirs.position_offset, min(ours.positions, theirs.positions)
    positions = source.positions.weight[start : start + rows].cpu()
    if types is not None and mine.types is None:
        positions = positions + types[0]  # what the teacher adds to every token of a first text
    if ours.hidden == theirs.hidden:
        mine.norm.load_state_dict(source.norm.state_dict())
        project = torch.eye(ours.hidden)
    else:
        project = _projection(words, ours.hidden)
    mine.words.weight.copy_(words @ project)
    first = ours.position_offset  # rows that the teacher lacks keep their own start
    mine.positions.weight[first : first + rows].copy_(positions @ project)
    if types is not None and ours.type_vocab == theirs.type_vocab:
        mine.types.weight.copy_(types @ project)


def _projection(words: Tensor, hidden: int) -> Tensor:
    """Top right singular vectors (H_T, hidden) of a (V, H_T) matrix, through its small Gram matrix.

    Each vector's largest entry is made positive: an eigenvector's sign is otherwise arbitrary.
    """
    wide = words.double()
    vectors = torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(1)[:, :hidden]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (vectors * largest.sign()).to(words.dtype)


def _take_layers(model: MaskedLM, teacher: MaskedLM) -> None:
    """Evenly spaced teacher layers, the first and the last included, and the head's transform."""
    last, steps = teacher.config.depth - 1, max(model.config.depth - 1, 1)
    for i, layer in enumerate(model.encoder.layers):
        source = teacher.encoder.layers[round(i * last / steps)]
        layer.load_state_dict(source.state_dict())
    model.head.load_state_dict(teacher.head.state_dict())
