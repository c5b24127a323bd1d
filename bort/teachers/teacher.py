"""What every teacher can be asked, whatever its family is.

Letters: B batch, S sequence, M masked positions, V vocabulary, P positions, A heads, H hidden size,
E width of a teacher's head states and of its embedding tables, K = H / A.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import MaskedLM
from bort.models.initialization import EmbeddingTables

# What a student can learn from a teacher, and what a teacher without it lacks.
GIFTS = {
    "logits": "a masked-LM head",
    "hidden": "final states",
    "relations": "query, key and value projections that are known",
    "task": "a fine-tuned head",
}
# The setting of the loss that learns from each.
LOSSES = {
    "logits": "distill.w_kd",
    "hidden": "distill.w_hidden",
    "relations": "distill.w_relation",
}


class Relations(NamedTuple):
    """Query, key and value of one layer, each (B, S, A, K), before any scaling or rotation."""

    query: Tensor
    key: Tensor
    value: Tensor


class Teacher(Protocol):
    """A frozen encoder that a student learns from; in evaluation mode, without gradients.

    All inputs are token ids of the teacher's own vocabulary, (B, S); attention_mask (B, S) is
    nonzero where there is a token, None for everywhere. No input is longer than `limit`. Token
    types are 0. What a teacher cannot give (see `gives`) must not be asked of it: `require` raises
    BortError in its place.
    """

    name: str  # as the user gave it, or the folder
    arch: Arch  # ⟨D, A, H, I⟩
    vocab_size: int  # rows of its word matrix and columns of its logits
    limit: int  # the longest input in tokens
    pad_id: int
    head_width: int  # E: the width of the head states that `decode` takes
    gives: frozenset[str]  # out of GIFTS: logits, hidden, relations, task
    embeddings: EmbeddingTables  # what `init=teacher` starts a student from
    masked_lm: MaskedLM | None  # the model of our own family, whose layers a student may copy
    origin: "Teacher | None"  # what `select_words` made this one of; None: it has all its words

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""

    @property
    def parameter_count(self) -> int:
        """The number of weights, tied ones counted once."""

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, and return this teacher."""

    def copy_in_bf16(self) -> Self:
        """Copy the teacher with the matrices of its products in bf16, to be run under autocast."""

    def select_words(self, ids: Tensor) -> Self:
        """Make a teacher of some of the words; ids (W,), ascending, have the new ids 0 … W − 1.

        It reads them as this teacher does, and its logits are this one's for them. The padding
        token has to be among them. The weights are shared with this teacher, but for the tables.
        """

    def compute_logits(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the logits (M, V) at the flat positions (M,) of the B · S tokens."""

    def compute_head_states(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the states (M, E) at flat positions (M,) that `decode` turns into logits."""

    def decode(self, states: Tensor) -> Tensor:
        """Compute the logits (…, V) of head states (…, E), which are cheaper to keep."""

    def compute_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the final states (B, S, H)."""

    def compute_relations(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layer: int = -1
    ) -> Relations:
        """Compute query, key and value of one layer; layer: 0 … D - 1, or from the end, -1 … -D."""

    def compute_states_and_relations(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layer: int = -1
    ) -> tuple[Tensor, Relations]:
        """Compute what `compute_states` and `compute_relations` do, in one pass."""

    def compute_answers(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Compute the answers (B, outputs) of the task that a fine-tuned teacher gives."""


@dataclass(frozen=True)
class Gap:
    """A thing that a student was to learn from a teacher which does not give it."""

    teacher: Teacher
    gift: str  # out of GIFTS

    def __str__(self) -> str:
        gifts = [name for name in GIFTS if name in self.teacher.gives]
        losses = [LOSSES[name] for name in gifts if name in LOSSES]
        advice = f"; use {' or '.join(losses)}" if losses else ""
        return (
            f"the teacher {self.teacher.name} gives {' and '.join(gifts)}, but no {self.gift}: "
            f"it lacks {GIFTS[self.gift]}{advice}"
        )


def require(teacher: Teacher, gift: str) -> None:
    """Raise BortError, which says what the teacher gives instead, unless it gives this."""
    if gift not in teacher.gives:
        raise BortError(str(Gap(teacher, gift)))


def find_padding(pad_id: int, ids: Tensor) -> int:
    """Return the new id of padding where only the words `ids` (W,) stay.

    Raises BortError if it is none of them.
    """
    rows = (ids == pad_id).nonzero()
    if not len(rows):
        raise BortError(
            f"padding is the word {pad_id} of the teacher, but no special token of its tokenizer: "
            "its vocabulary cannot be trimmed; leave data.vocab_size out"
        )
    return int(rows[0])
