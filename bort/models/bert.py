"""The BERT family: post-LayerNorm encoder, tied masked-LM head, and classifiers.

Shape letters: B batch, S sequence, M masked positions, V vocabulary, D depth, A heads, H hidden,
I intermediate, K = H / A, P usable positions.
"""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bort.errors import BortError, check_at_least, check_choice, shorten, suggest_name
from bort.models.arch import Arch
from bort.models.attention import attend, drop_states
from bort.models.trained_weights import Linear, SharedWords

MOST_ROWS = 2**31  # of a table; above it not even the size of one can be computed
ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "relu": None}


@dataclass
class ModelConfig:
    """Architecture of one model; BERT, RoBERTa and our own style differ only in these numbers.

    positions: rows for positions (without RoBERTa's offset): no input can be longer.
    position_offset: 0 (BERT and ours) or pad_id + 1 (RoBERTa, where padding sits at row pad_id).
    type_vocab: number of token types, 0 for none. length: the longest input whose positions are
    trained, None where that is unknown. Raises BortError if the numbers cannot make a model.
    """

    depth: int
    heads: int
    hidden: int
    intermediate: int
    vocab_size: int
    positions: int = 512
    position_offset: int = 0
    type_vocab: int = 0
    pad_id: int = 1
    dropout: float = 0.0
    attention_dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    activation: str = "gelu"
    length: int | None = None

    @property
    def limit(self) -> int:
        """The longest input in tokens whose answers can be trusted."""
        return self.positions if self.length is None else self.length

    @property
    def arch(self) -> Arch:
        """⟨D, A, H, I⟩ of this model."""
        return Arch(self.depth, self.heads, self.hidden, self.intermediate)

    def __post_init__(self):
        self.arch.check()
        for name, least in (("vocab_size", 1), ("positions", 1), ("type_vocab", 0), ("pad_id", 0)):
            check_at_least(name, getattr(self, name), least, below=MOST_ROWS)
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise BortError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if not 0 < self.layer_norm_eps < 1:
            raise BortError(f"layer_norm_eps={self.layer_norm_eps:g} must be above 0 and below 1")
        if self.length is not None:
            check_at_least("length", self.length, 1, below=self.positions + 1)
        if self.pad_id >= self.vocab_size:
            raise BortError(f"pad_id={self.pad_id} is outside the vocabulary of {self.vocab_size}")
        if self.position_offset not in (0, self.pad_id + 1):
            raise BortError(
                f"position_offset={self.position_offset} must be 0 (BERT) or pad_id + 1 = "
                f"{self.pad_id + 1} (RoBERTa)"
            )
        if self.activation not in ACTIVATIONS:
            raise BortError(
                f"activation '{shorten(self.activation, 20)}' is not supported; use one of "
                f"{', '.join(ACTIVATIONS)}{suggest_name(self.activation[:40], ACTIVATIONS)}"
            )


def _activate(x: Tensor, name: str) -> Tensor:
    return F.relu(x) if name == "relu" else F.gelu(x, approximate=ACTIVATIONS[name])


def _tracing() -> bool:
    """Under torch.compile and torch.export a shortcut that reads the data breaks the graph."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


class Embeddings(nn.Module):
    """Word + position (+ token type) embeddings, LayerNorm, dropout."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        rows = config.positions + config.position_offset
        self.words = nn.Embedding(config.vocab_size, config.hidden, padding_idx=config.pad_id)
        self.positions = nn.Embedding(rows, config.hidden)
        self.types = nn.Embedding(config.type_vocab, config.hidden) if config.type_vocab else None
        self.norm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)

    def forward(
        self, input_ids: Tensor, token_types: Tensor | None, shared: SharedWords | None = None
    ) -> Tensor:
        """Return the sum of words, positions and token types, normalized: (B, S, H).

        shared: looks the words up where a decoder multiplies the states by their matrix.
        """
        words = self.words(input_ids) if shared is None else shared.look_up(input_ids)
        x = words + self._position_rows(input_ids)  # (B, S, H)
        if self.types is not None:
            x = x + (self.types.weight[0] if token_types is None else self.types(token_types))
        return F.dropout(self.norm(x), self.config.dropout, self.training)

    def _position_rows(self, input_ids: Tensor) -> Tensor:
        """(S, H) where all rows of the batch share their positions, else (B, S, H)."""
        length, offset = input_ids.shape[1], self.config.position_offset
        if length > self.config.positions:
            raise BortError(
                f"an input of {length} tokens is longer than the model's limit of "
                f"{self.config.positions}; cut it, or lower data.length"
            )
        if offset:
            pad = self.config.pad_id
            real = input_ids != pad
            if _tracing() or not real.all():
                places = real.cumsum(1) * real + pad
                return F.embedding(places, self.positions.weight, padding_idx=pad)
        return self.positions.weight[offset : offset + length]


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value stay separate matrices for Muon."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.query = Linear(config.hidden, config.hidden)
        self.key = Linear(config.hidden, config.hidden)
        self.value = Linear(config.hidden, config.hidden)
        self.output = Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the attention of states (B, S, H) to each other, where the mask allows it."""
        if torch.is_autocast_enabled(x.device.type):  # converts once for three products
            x = x.to(torch.get_autocast_dtype(x.device.type))
        query, key, value = self.project(x)
        dropout = self.config.attention_dropout if self.training else 0.0
        mixed = attend(query, key, value, mask, dropout)
        return self.output(mixed.reshape(x.shape))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value of states (B, S, H), each (B, S, A, K)."""
        shape = (*x.shape[:2], self.config.heads, -1)
        # One product over the concatenated matrices was no faster: equal within 2% at ⟨2,4,128,512⟩
        # 8 × 128, ⟨4,8,1024,768⟩ 8 × 128 and ⟨4,4,256,512⟩ 32 × 128 (training, float32, 2 cores).
        query, key, value = (layer(x).view(shape) for layer in (self.query, self.key, self.value))
        return query, key, value


class Layer(nn.Module):
    """One encoder layer: attention and feed-forward, each added to its input and normalised."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.up = Linear(config.hidden, config.intermediate)
        self.down = Linear(config.intermediate, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the states (B, S, H) after attention and feed-forward, each with its residual."""
        p = self.config.dropout
        x = self.attention_norm(x + drop_states(self.attention(x, mask), p, self.training))
        inner = _activate(self.up(x), self.config.activation)  # (B, S, I)
        return self.norm(x + drop_states(self.down(inner), p, self.training))


class Encoder(nn.Module):
    """Embeddings and D layers."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        shared: SharedWords | None = None,
        depth: int | None = None,
    ) -> Tensor:
        """Hidden states (B, S, H) after the last layer, or after the first `depth` layers.

        input_ids (B, S); attention_mask (B, S), nonzero where there is a token, None for
        everywhere; token_types (B, S), None for all 0, unused by a model without token types.
        shared: looks the words up where a decoder multiplies the states by their matrix.
        Raises BortError if S exceeds config.positions.
        """
        mask = make_attention_mask(attention_mask)
        x = self.embeddings(input_ids, token_types, shared)
        for layer in islice(self.layers, depth):
            x = layer(x, mask)
        return x


def make_attention_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Return None when nothing is masked (the fastest kernel), else bool (B, 1, 1, S)."""
    if attention_mask is None:
        return None
    keep = attention_mask.bool()
    if not _tracing() and keep.all():
        return None
    # A row of padding only attends everywhere: a softmax over nothing would be NaN.
    keep = keep | ~keep.any(dim=1, keepdim=True)
    return keep[:, None, None, :]


class Head(nn.Module):
    """Dense, activation, LayerNorm, and the bias of the decoder that shares the word embedding."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.dense = Linear(config.hidden, config.hidden)
        self.norm = nn.LayerNorm(config.hidden, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        # RoBERTa's published head is GELU whatever its layers use; BERT's follows the layers.
        self.activation = "gelu" if config.position_offset else config.activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the states (…, H) that the decoder multiplies with its vocabulary."""
        return self.norm(_activate(self.dense(x), self.activation))


class MaskedLM(nn.Module):
    """Encoder with masked-LM head; gives Hugging Face's numbers from Hugging Face's weights.

    All methods take input_ids, attention_mask and token_types as `Encoder.forward` does.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head = Head(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Logits (M, V) at flat positions (M,) of the (B * S) tokens, or (B, S, V) for None."""
        shared = SharedWords(self.encoder.embeddings.words)
        x = self.encoder(input_ids, attention_mask, token_types, shared)
        return shared.decode(self._transform(x, positions), self.head.bias)

    def encode(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states (B, S, H)."""
        return self.encoder(input_ids, attention_mask, token_types)

    def head_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """States (M, H) at flat positions (M,), or (B, S, H): what `decode` turns into logits."""
        return self._transform(self.encode(input_ids, attention_mask, token_types), positions)

    def _transform(self, x: Tensor, positions: Tensor | None) -> Tensor:
        """Select the states at flat positions (M,) of (B, S, H), and pass them through the head."""
        if positions is not None:  # before the dense layer: the head costs M rows, not B * S
            x = x.flatten(0, 1).index_select(0, positions)  # (M, H)
        return self.head(x)

    def decode(self, states: Tensor) -> Tensor:
        """Logits (..., V) of head states (..., H), by the word embedding."""
        return F.linear(states, self.encoder.embeddings.words.weight, self.head.bias)


HEADS = ("linear", "linear2", "bort")  # on the first token's state, as Hugging Face's classes
POOLED_HEADS = ("mean", "towers")  # on the mean of all tokens' states, which only bort computes
TOWER_ROWS = 8  # pairs from which on two passes can be faster than one
TOWER_SAVING = 0.2  # share of the tokens that two passes have to save


class Classifier(nn.Module):
    """Encoder with an answer per input: classes, a number, or the score of one of several choices.

    head: `linear`, one linear layer on the first token's state (arXiv 2010.10499, §5); `linear2`,
    two of them (CoLA there); `bort`, the released code's dropout, dense, tanh, dropout, dense;
    `mean`, one linear layer on the mean of all tokens' states; `towers`, for pairs whose two texts
    are encoded each by itself, with the mean states u and v: one linear layer on
    [u, v, |u − v|, u · v] for classes, and on their cosine for a number.
    spans: so many marked spans of the input stand beside the first token, each as its mean state.
    choices: whether its one output is the score of a choice, to be compared with other inputs'.
    scale: of a regression, (offset, factor): the layers learn numbers around 0, and the answer,
    offset + factor · their output, is on the scale of the user's numbers.
    multi_label: whether each output is a label that is right or wrong by itself.
    """

    def __init__(
        self,
        config: ModelConfig,
        outputs: int,
        head: str = "linear",
        spans: int = 0,
        choices: bool = False,
        scale: tuple[float, float] | None = None,
        multi_label: bool = False,
    ):
        super().__init__()
        check_choice("head", head, HEADS + POOLED_HEADS)
        self.multi_label = multi_label
        self.config, self.head, self.spans, self.choices = config, head, spans, choices
        self.scale = scale
        self.encoder = Encoder(config)
        width = measure_head_input(config.hidden, outputs, head, spans)
        self.dense = Linear(width, width) if head in ("linear2", "bort") else None
        self.out = Linear(width, outputs)

    @property
    def output_count(self) -> int:
        """The number of classes or labels, 1 of a number or of choices."""
        return self.out.out_features

    @property
    def texts_per_row(self) -> int:
        """The number of inputs that one answer is computed from: 2 of `towers`, else 1."""
        return 2 if self.head == "towers" else 1

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
        spans: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, outputs). spans (B, spans, 2): first token of each and the one after its last.

        The other inputs as in `Encoder.forward`; those of `towers` are (2B, S), in which the two
        texts of a pair follow each other. With a scale the answers are float64: float32 has seven
        digits, and 200,000 ± 1 needs most of them for the offset.
        """
        if self.head == "towers":
            x = self._compare_texts(input_ids, attention_mask, token_types)
        else:
            states = self.encoder(input_ids, attention_mask, token_types)  # (B, S, H)
            x = average_states(states, attention_mask) if self.head == "mean" else states[:, 0]
            if self.spans:
                x = torch.cat([x, _span_means(states, spans).flatten(1)], dim=1)
        dropout = self.config.dropout
        if x.shape[1] > 1:  # a cosine is one number, which is not to be left out
            x = F.dropout(x, dropout, self.training)
        if self.head == "linear2":
            x = self.dense(x)
        elif self.head == "bort":
            x = F.dropout(torch.tanh(self.dense(x)), dropout, self.training)
        if self.scale is None:
            return self.out(x)
        offset, factor = self.scale
        return offset + factor * self.out(x).double()

    def _compare_texts(
        self, input_ids: Tensor, attention_mask: Tensor | None, token_types: Tensor | None
    ) -> Tensor:
        """Return the cosine (B, 1) of the two texts of each pair, or their features (B, 4H).

        Raises BortError for texts of which one has no second.
        """
        if len(input_ids) % 2:
            raise BortError(f"{len(input_ids)} texts are no pairs; head=towers takes two of each")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        first, second = self._encode_texts(input_ids, attention_mask, token_types)  # (B, H)
        if self.out.in_features == 1:
            return F.cosine_similarity(first, second, dim=-1)[:, None]
        return torch.cat([first, second, (first - second).abs(), first * second], dim=1)

    def _encode_texts(
        self, input_ids: Tensor, attention_mask: Tensor, token_types: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean states (B, H) of the first texts and of the second ones.

        All are encoded in one pass, unless one kind of text is so much shorter (a question beside
        a passage) that two passes, each without the padding for the other, are faster.
        """
        ends = []
        if not _tracing() and len(input_ids) >= 2 * TOWER_ROWS:
            ends = [_find_end(attention_mask[k::2]) for k in (0, 1)]
        if not ends or sum(ends) > 2 * (1 - TOWER_SAVING) * input_ids.shape[1]:
            states = self.encoder(input_ids, attention_mask, token_types)  # (2B, S, H)
            means = average_states(states, attention_mask)
            return means[0::2], means[1::2]
        means = []
        for number, end in enumerate(ends):
            ids, mask = input_ids[number::2, :end], attention_mask[number::2, :end]
            types = None if token_types is None else token_types[number::2, :end]
            means.append(average_states(self.encoder(ids, mask, types), mask))
        return means[0], means[1]


def _find_end(attention_mask: Tensor) -> int:
    """Return one past the last column of a mask (B, S) where some row has a token, 1 at least."""
    numbers = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return max(1, int((attention_mask.bool().any(0) * numbers).max()))


def measure_head_input(hidden: int, outputs: int, head: str, spans: int = 0) -> int:
    """Return how many numbers the layers of a classifier's head read of an input.

    Towers of one output read a cosine; all others read so many states of H numbers.
    """
    if head == "towers":
        return 1 if outputs == 1 else 4 * hidden
    return hidden * (1 + spans)


def average_states(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the mean (B, H) of the states (B, S, H) of an input's tokens, padding left out."""
    if attention_mask is None:
        return states.mean(1)
    weights = (attention_mask != 0).to(states.dtype)[..., None]  # (B, S, 1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def _span_means(states: Tensor, spans: Tensor) -> Tensor:
    """(B, spans, H) from states (B, S, H) and borders (B, spans, 2); no span is empty."""
    positions = torch.arange(states.shape[1], device=states.device)
    inside = (positions >= spans[..., :1]) & (positions < spans[..., 1:])  # (B, spans, S)
    weights = inside.to(states.dtype)
    return weights @ states / weights.sum(-1, keepdim=True).clamp(min=1.0)
