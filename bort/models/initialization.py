"""Fresh weights: the starts of a masked LM, also from its teacher, and of a classifier's head."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from bort.errors import BortError, check_choice
from bort.models.arch import INITS, Arch
from bort.models.bert import Classifier, MaskedLM, ModelConfig


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


def build_empty(config: ModelConfig) -> MaskedLM:
    """A model whose weights are yet to be written; draws nothing from the global generator."""
    with torch.device("meta"):
        model = MaskedLM(config)
    return model.to_empty(device="cpu")


def build_model(
    config: ModelConfig,
    init: str = "default",
    seed: int = 0,
    teacher: MaskedLM | None = None,
    tables: EmbeddingTables | None = None,
    layers: Sequence[int] | None = None,
) -> MaskedLM:
    """A freshly initialised model; the same seed gives the same weights.

    init: `default` (made for small models), `paper` (N(0, 0.02) everywhere) or `teacher` (default,
    then what fits is taken from the teacher). teacher: the model whose layers are copied where
    their shapes are the student's; None for a teacher of another family. tables: its embeddings,
    which the student starts from; None takes those of `teacher`. layers: the numbers of the layers
    that are copied, one for each of the student's; [] copies none, None spreads them evenly. Raises
    BortError if init is unknown, if there is no teacher, or if it does not fit.
    """
    check_choice("init", init, INITS)
    if tables is None and teacher is not None:
        tables = EmbeddingTables.from_model(teacher)
    if init == "teacher" and tables is None:
        raise BortError("init=teacher needs a teacher; set teacher.name, or use init=default")
    model = build_empty(config)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        draw_weights(model, 0.02 if init == "paper" else init_std(config.hidden), generator)
        if init != "paper":
            _shape_start(model)
        if init == "teacher":
            _take_embeddings(model, tables)
            _take_layers(model, teacher, layers, tables.decoder_bias is not None)
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


def _take_embeddings(model: MaskedLM, tables: EmbeddingTables) -> None:
    """Take word, position and type rows, and the decoder's bias, in our width.

    Rows of another width are projected; a wider student has zeros in the numbers beyond.
    """
    ours, embeddings = model.config, model.encoder.embeddings
    # on the CPU, wherever the teacher is: every student of it starts from the same bits
    words = tables.words.detach().float().cpu()  # (V, E)
    if ours.vocab_size != len(words):
        raise BortError(
            f"the teacher's vocabulary has {len(words)} tokens, the student's "
            f"{ours.vocab_size}; they must be the same (data.tokenizer=auto takes the teacher's)"
        )
    width = words.shape[1]
    if ours.hidden >= width:
        project = torch.eye(width, ours.hidden)
    else:
        project = _projection(words, ours.hidden)
    if ours.hidden == width and tables.norm is not None:
        _take_norm(embeddings.norm, tables.norm)
    embeddings.words.weight.copy_(words @ project)
    types = None if tables.types is None else tables.types.detach().float().cpu()
    shift = torch.zeros(width)  # what the teacher adds to every token of a first text
    if types is not None and ours.type_vocab == len(types):
        embeddings.types.weight.copy_(types @ project)
    elif types is not None:
        shift = types[0]
        if embeddings.types is not None:
            embeddings.types.weight.zero_()
    first = ours.position_offset  # rows that the teacher lacks keep their own start
    if tables.positions is not None:
        rows = tables.positions.detach().float().cpu()[: ours.positions] + shift
        embeddings.positions.weight[first : first + len(rows)].copy_(rows @ project)
    elif shift.any():
        embeddings.positions.weight[first:].add_(shift @ project)
    if tables.decoder_bias is not None:
        model.head.bias.copy_(tables.decoder_bias)


def _take_norm(ours: nn.LayerNorm, theirs: nn.Module) -> None:
    """Copy the scale and the shift of a LayerNorm; what it lacks stays 1 and 0."""
    if getattr(theirs, "weight", None) is not None:
        ours.weight.copy_(theirs.weight)
    if getattr(theirs, "bias", None) is not None:
        ours.bias.copy_(theirs.bias)


def _projection(words: Tensor, hidden: int) -> Tensor:
    """Top right singular vectors (H_T, hidden) of a (V, H_T) matrix, through its small Gram matrix.

    Each vector's largest entry is made positive: an eigenvector's sign is otherwise arbitrary.
    """
    wide = words.double()
    vectors = torch.linalg.eigh(wide.T @ wide).eigenvectors.flip(1)[:, :hidden]
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return (vectors * largest.sign()).to(words.dtype)


def choose_layers(
    student: Arch, teacher: Arch | None, chosen: Sequence[int] | None = None
) -> Sequence[int]:
    """Choose the numbers of the teacher's layers that become the student's; [] where none can.

    teacher: None for one of another family, whose layers compute something else. chosen: what the
    user wants; None spreads them evenly, the first and the last included. Raises BortError for
    chosen layers that cannot be copied.
    """
    if chosen is not None and not len(chosen):
        return []
    is_alike = teacher is not None and (student.hidden, student.heads, student.intermediate) == (
        teacher.hidden,
        teacher.heads,
        teacher.intermediate,
    )
    if not is_alike and chosen:
        kind = f"has {teacher}" if teacher else "is of another family"
        raise BortError(
            f"init_layers={list(chosen)}: layers are copied only where H, A and I are equal; "
            f"the student is {student}, the teacher {kind}"
        )
    if not is_alike:
        return []
    last, steps = teacher.depth - 1, max(student.depth - 1, 1)
    if chosen is None:
        return [round(number * last / steps) for number in range(student.depth)]
    if min(chosen) < 0 or max(chosen) > last:
        raise BortError(f"init_layers={list(chosen)}: the teacher's layers are 0 to {last}")
    return chosen


def _take_layers(
    model: MaskedLM, teacher: MaskedLM | None, chosen: Sequence[int] | None, has_head: bool
) -> None:
    """Copy layers of the teacher, see `choose_layers`, and the transform of its head."""
    numbers = choose_layers(model.config.arch, teacher.config.arch if teacher else None, chosen)
    if not numbers:
        return
    for layer, number in zip(model.encoder.layers, numbers, strict=True):
        layer.load_state_dict(teacher.encoder.layers[number].state_dict())
    if has_head:
        model.head.load_state_dict(teacher.head.state_dict())
