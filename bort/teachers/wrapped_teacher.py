"""Teachers of other families, opened by transformers.

Letters as in `bort.teachers.teacher`.
"""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from inspect import signature
from typing import Any, Self

import torch
from torch import Tensor, nn

from bort.errors import BortError
from bort.models.hf_config import MULTI_LABEL
from bort.models.in_bf16 import cast_linear_layers
from bort.models.initialization import EmbeddingTables
from bort.teachers.families import FAMILIES, Family, Shape
from bort.teachers.teacher import Relations, find_padding, require


class WrappedTeacher:
    """An encoder of transformers as a `Teacher`.

    model: one of transformers' masked LMs, classifiers of sequences, or bare encoders. has_head:
    whether it has a head, with the weights of the file; a teacher without one gives no logits, nor
    answers of a task. in_float32: whether it runs in float32 even under autocast. words: the
    model's ids (W,) of the words 0 … W − 1, if it is only asked for these; then the decoder has
    rows for no others.
    """

    masked_lm = None
    head, spans, choices = "linear", 0, False  # of a task's answers, as `Classifier` has them

    def __init__(
        self,
        model: Any,
        shape: Shape,
        name: str,
        has_head: bool,
        in_float32: bool = False,
        words: Tensor | None = None,
    ):
        self.in_float32, self.words = in_float32, words
        self.model = model.eval().requires_grad_(False)
        self.encoder = model.base_model
        self.name, self.shape = name, shape
        self.origin: WrappedTeacher | None = None
        self.family = FAMILIES.get(model.config.model_type, Family(model.config.model_type))
        self.has_head = has_head
        is_tuned = type(model).__name__.endswith("ForSequenceClassification")
        self.decoder = model.get_output_embeddings() if has_head and not is_tuned else None
        if getattr(self.decoder, "out_features", None) != self.vocab_size:
            self.decoder = None
        self.projections = find_projections(self.encoder, self.family, shape)
        gifts = {
            "hidden": True,
            "logits": self.decoder is not None,
            "relations": bool(self.projections),
            "task": is_tuned and has_head,
        }
        self.gives = frozenset(gift for gift, is_there in gifts.items() if is_there)

    # ---- what is known without a pass

    @property
    def arch(self):
        """⟨D, A, H, I⟩; layers that share their weights are counted one by one."""
        return self.shape.arch

    @property
    def vocab_size(self) -> int:
        """Rows of the word matrix, and columns of the logits."""
        return self.shape.vocab_size if self.words is None else len(self.words)

    @property
    def limit(self) -> int:
        """The longest input in tokens."""
        return self.shape.limit

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        pad_id = self.shape.pad_id
        return pad_id if self.words is None else find_padding(pad_id, self.words)

    @property
    def head_width(self) -> int:
        """The width of the head states: that of the embeddings (ALBERT) or the hidden size."""
        return self.arch.hidden if self.decoder is None else self.decoder.in_features

    @property
    def embeddings(self) -> EmbeddingTables:
        """The tables that turn ids into states; see `EmbeddingTables`."""
        module = getattr(self.encoder, "embeddings", None)
        positions = _get_table(module, "position_embeddings")
        if positions is not None:
            positions = positions[self.family.find_offset(self.shape.pad_id) :]
        norms = (getattr(module, name, None) for name in ("LayerNorm", "norm"))
        bias = None if self.decoder is None else self.decoder.bias
        words = self.encoder.get_input_embeddings().weight.detach()
        return EmbeddingTables(
            words if self.words is None else words[self.words.to(words.device)],
            positions,
            _get_table(module, "token_type_embeddings"),
            next((norm for norm in norms if isinstance(norm, nn.LayerNorm)), None),
            None if bias is None else bias.detach(),
        )

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return next(self.model.parameters()).device

    @property
    def parameter_count(self) -> int:
        """The number of weights, tied ones counted once, without words that are not asked for."""
        model = self.model if self.gives & {"logits", "task"} else self.encoder
        count = sum(weight.numel() for weight in model.parameters())
        if self.words is None:
            return count
        rows, width = self.encoder.get_input_embeddings().weight.shape
        is_tied = self.decoder is not None and self.model.config.tie_word_embeddings
        return count - (rows if is_tied else rows - len(self.words)) * width

    @property
    def multi_label(self) -> bool:
        """Whether each output of a fine-tuned head is a label that is right or wrong by itself."""
        return self.model.config.problem_type == MULTI_LABEL

    @property
    def output_count(self) -> int:
        """The number of outputs of a fine-tuned head."""
        return self.model.config.num_labels

    # ---- passes

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, and return this teacher."""
        self.model.to(device)
        return self

    def copy_in_bf16(self) -> "WrappedTeacher":
        """Copy the teacher with the matrices of its products in bf16, to be run under autocast.

        A family that cannot run so (DeBERTa) stays in float32.
        """
        model = self._copy_model()
        cast_linear_layers(model)
        copy = WrappedTeacher(model, self.shape, self.name, self.has_head, words=self.words)
        if is_like_in_bf16(copy, self):
            return copy
        return WrappedTeacher(
            self.model, self.shape, self.name, self.has_head, in_float32=True, words=self.words
        )

    def select_words(self, ids: Tensor) -> "WrappedTeacher":
        """Make a teacher of some of the words, which are now 0 … W − 1; see `Teacher`."""
        model = self._copy_model()
        words = ids if self.words is None else self.words[ids]
        find_padding(self.shape.pad_id, words)
        if self.decoder is not None:
            _select_columns(model, model.get_output_embeddings(), ids.to(self.device))
        part = WrappedTeacher(model, self.shape, self.name, self.has_head, self.in_float32, words)
        part.origin = self
        return part

    def _copy_model(self) -> Any:
        """Copy the modules of the model; the copies hold the same weights."""
        return deepcopy(self.model, {id(weight): weight for weight in self.model.parameters()})

    def _to_model_ids(self, input_ids: Tensor) -> Tensor:
        """Turn ids of the words that are asked for into the model's own."""
        return input_ids if self.words is None else self.words.to(input_ids.device)[input_ids]

    def compute_logits(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the logits (M, V) at the flat positions (M,) of the B · S tokens."""
        return self._run_head(input_ids, positions, attention_mask)[1]

    def compute_head_states(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the states (M, E) at flat positions (M,) that `decode` turns into logits."""
        return self._run_head(input_ids, positions, attention_mask)[0]

    @torch.no_grad()
    def _run_head(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Compute head states (M, E) and logits (M, V); the head runs at the M positions only."""
        require(self, "logits")
        self._check_length(input_ids)
        states: list[Tensor] = []

        def select(module: nn.Module, inputs: tuple, output: Any) -> Any:
            rows = output[0].flatten(0, 1).index_select(0, positions)[None]  # (1, M, H)
            if isinstance(output, tuple):
                return rows, *output[1:]
            output[next(iter(output))] = rows
            return output

        def record(module: nn.Module, inputs: tuple) -> None:
            states.append(inputs[0][0])  # (M, E)

        with (
            self._choose_precision(),
            self.encoder.register_forward_hook(select),
            self.decoder.register_forward_pre_hook(record),
        ):
            ids = self._to_model_ids(input_ids)
            logits = self.model(input_ids=ids, attention_mask=attention_mask)[0]
        return states[0], logits[0]

    @torch.no_grad()
    def decode(self, states: Tensor) -> Tensor:
        """Compute the logits (…, V) of head states (…, E)."""
        require(self, "logits")
        with self._choose_precision():
            return self.decoder(states)

    @torch.no_grad()
    def compute_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the final states (B, S, H)."""
        self._check_length(input_ids)
        ids = self._to_model_ids(input_ids)
        with self._choose_precision():
            return self.encoder(input_ids=ids, attention_mask=attention_mask)[0]

    @torch.no_grad()
    def compute_relations(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layer: int = -1
    ) -> Relations:
        """Compute query, key and value of one layer."""
        return self.compute_states_and_relations(input_ids, attention_mask, layer)[1]

    @torch.no_grad()
    def compute_states_and_relations(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layer: int = -1
    ) -> tuple[Tensor, Relations]:
        """Compute the final states, and query, key and value of one layer, in one pass."""
        require(self, "relations")
        number, shape = range(self.arch.depth)[layer], (*input_ids.shape, self.arch.heads, -1)
        index, call = divmod(number, self.arch.depth // len(self.projections))
        with record_outputs(self.projections[index]) as outputs:
            states = self.compute_states(input_ids, attention_mask)
        # DeBERTa's matrices also project the distances, after the states.
        tensors = [calls[call] for calls in outputs]  # (B, S, H), or one (B, S, 3 H)
        if len(tensors) == 1:
            tensors = tensors[0].chunk(3, dim=-1)
        return states, Relations(*(tensor.reshape(shape) for tensor in tensors))

    @torch.no_grad()
    def compute_answers(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Compute the answers (B, outputs) of the fine-tuned task: logits, or a number."""
        require(self, "task")
        self._check_length(input_ids)
        inputs = {"input_ids": self._to_model_ids(input_ids), "attention_mask": attention_mask}
        if token_types is not None and "token_type_ids" in signature(self.model.forward).parameters:
            inputs["token_type_ids"] = token_types
        with self._choose_precision():
            return self.model(**inputs).logits

    def _choose_precision(self) -> AbstractContextManager:
        off = torch.autocast(self.device.type, enabled=False)
        return off if self.in_float32 else nullcontext()

    def _check_length(self, input_ids: Tensor) -> None:
        if input_ids.shape[1] > self.limit:
            raise BortError(
                f"an input of {input_ids.shape[1]} tokens is longer than the limit of {self.limit} "
                f"of the teacher {self.name}; cut it, or lower data.length"
            )


def _select_columns(model: Any, decoder: nn.Linear, ids: Tensor) -> None:
    """Leave a model's decoder only the rows `ids` (W,), one for each of its logits."""
    decoder.out_features = len(ids)
    decoder.weight = nn.Parameter(decoder.weight[ids], requires_grad=False)
    if (bias := decoder.bias) is None:
        return
    smaller = nn.Parameter(bias[ids], requires_grad=False)
    for module in model.modules():  # the head often holds the decoder's bias, too
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight is bias:
                setattr(module, name, smaller)


def _get_table(module: Any, name: str) -> Tensor | None:
    """Return the rows of an embedding of a module, None where there is none."""
    table = getattr(module, name, None)
    return table.weight.detach() if isinstance(table, nn.Embedding) else None


def find_projections(encoder: nn.Module, family: Family, shape: Shape) -> list[list[nn.Module]]:
    """Find the layers that compute query, key and value, for each attention of an encoder in order.

    There are fewer attentions than layers where layers share them (ALBERT): each then serves as
    many layers in a row. Returns [] where they are not what the table of families says.
    """
    pattern = re.compile(re.escape(family.attention).replace(r"\*", r"\d+"))
    attentions = [part for name, part in encoder.named_modules() if pattern.fullmatch(name)]
    takes_turns = getattr(encoder.config, "inner_group_num", 1) > 1  # ALBERT, never published
    if not family.attention or not attentions or shape.arch.depth % len(attentions) or takes_turns:
        return []
    rows = [_get_layers(part, family.projections) for part in attentions]
    widths = {getattr(layer, "out_features", 0) for row in rows for layer in row}
    parts = 1 if len(family.projections) > 1 else 3  # of what one layer computes
    if len(widths) > 1 or widths.pop() % (shape.arch.heads * parts):
        return []
    return rows


def _get_layers(module: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    return [getattr(module, name, None) for name in names]


@contextmanager
def record_outputs(modules: list[nn.Module]) -> Iterator[list[list[Tensor]]]:
    """Collect the outputs of modules, one list of calls for each, while the block runs."""
    outputs: list[list[Tensor]] = [[] for _ in modules]
    with ExitStack() as stack:
        for module, calls in zip(modules, outputs, strict=True):

            def record(module: nn.Module, inputs: tuple, output: Tensor, calls=calls) -> None:
                calls.append(output)

            stack.enter_context(module.register_forward_hook(record))
        yield outputs


def make_probe(teacher: WrappedTeacher) -> Tensor:
    """Make the ids (1, S) of a short text without padding, to try a teacher with."""
    ids = torch.arange(1, max(2, min(9, teacher.limit - 3)))[None] * 31 % teacher.vocab_size
    ids = torch.where(ids == teacher.pad_id, (ids + 1) % teacher.vocab_size, ids)
    return ids.to(teacher.device)


def is_like_in_bf16(copy: WrappedTeacher, teacher: WrappedTeacher) -> bool:
    """Return whether a copy gives nearly the states of its teacher when it runs in bf16."""
    ids = make_probe(teacher)
    try:
        with torch.autocast(teacher.device.type, torch.bfloat16):
            states = copy.compute_states(ids).float()
    except RuntimeError:
        return False
    with torch.autocast(teacher.device.type, enabled=False):
        exact = teacher.compute_states(ids)
    return bool(torch.cosine_similarity(states, exact, dim=-1).min() > 0.99)
