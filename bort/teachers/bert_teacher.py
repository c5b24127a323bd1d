"""Teachers of our own family: BERT, RoBERTa and what has their mathematics.

Letters as in `bort.teachers.teacher`.
"""

from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from bort.models.arch import Arch
from bort.models.bert import Classifier, MaskedLM, make_attention_mask
from bort.models.in_bf16 import copy_in_bf16
from bort.models.initialization import EmbeddingTables
from bort.teachers.teacher import Relations, find_padding, require


class BertTeacher:
    """A `MaskedLM` as a `Teacher`.

    has_head: whether its head was trained; a teacher without one gives no logits. classifier: a
    fine-tuned head on the same encoder, which answers a task.
    """

    def __init__(
        self,
        model: MaskedLM,
        name: str = "",
        has_head: bool = True,
        classifier: Classifier | None = None,
    ):
        self.masked_lm = model.eval().requires_grad_(False)
        self.classifier = classifier
        if classifier is not None:
            classifier.eval().requires_grad_(False)
        self.name = name or f"of {model.config.arch}"
        self.origin: BertTeacher | None = None
        gifts = {"hidden": True, "relations": True, "logits": has_head, "task": bool(classifier)}
        self.gives = frozenset(gift for gift, is_there in gifts.items() if is_there)

    # ---- what is known without a pass

    @property
    def arch(self) -> Arch:
        """⟨D, A, H, I⟩."""
        return self.masked_lm.config.arch

    @property
    def vocab_size(self) -> int:
        """Rows of the word matrix, and columns of the logits."""
        return self.masked_lm.config.vocab_size

    @property
    def limit(self) -> int:
        """The longest input in tokens whose answers can be trusted."""
        return self.masked_lm.config.limit

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        return self.masked_lm.config.pad_id

    @property
    def head_width(self) -> int:
        """The width of the head states, which is the hidden size."""
        return self.masked_lm.config.hidden

    @property
    def embeddings(self) -> EmbeddingTables:
        """The tables that turn ids into states; see `EmbeddingTables`."""
        return EmbeddingTables.from_model(self.masked_lm, "logits" in self.gives)

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return self.masked_lm.head.bias.device

    @property
    def parameter_count(self) -> int:
        """The number of weights, tied ones counted once, without an untrained head."""
        model = self.masked_lm if "logits" in self.gives else self.masked_lm.encoder
        return sum(weight.numel() for weight in model.parameters())

    # ---- passes

    def to(self, device: torch.device | str) -> Self:
        """Move the weights to a device, and return this teacher."""
        self.masked_lm.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        return self

    def copy_in_bf16(self) -> "BertTeacher":
        """Copy the teacher with the matrices of its products in bf16, to be run under autocast.

        The copy answers no task.
        """
        return BertTeacher(copy_in_bf16(self.masked_lm), self.name, "logits" in self.gives)

    def select_words(self, ids: Tensor) -> "BertTeacher":
        """Make a teacher of some of the words, which are now 0 … W − 1; see `Teacher`.

        It answers no task.
        """
        part = BertTeacher(select_words(self.masked_lm, ids), self.name, "logits" in self.gives)
        part.origin = self
        return part

    @torch.no_grad()
    def compute_logits(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the logits (M, V) at the flat positions (M,) of the B · S tokens."""
        require(self, "logits")
        return self.masked_lm(input_ids, attention_mask, positions=positions)

    @torch.no_grad()
    def compute_head_states(
        self, input_ids: Tensor, positions: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Compute the states (M, H) at flat positions (M,) that `decode` turns into logits."""
        require(self, "logits")
        return self.masked_lm.head_states(input_ids, attention_mask, positions=positions)

    @torch.no_grad()
    def decode(self, states: Tensor) -> Tensor:
        """Compute the logits (…, V) of head states (…, H)."""
        require(self, "logits")
        return self.masked_lm.decode(states)

    @torch.no_grad()
    def compute_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Compute the final states (B, S, H)."""
        return self.masked_lm.encode(input_ids, attention_mask)

    @torch.no_grad()
    def compute_relations(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layer: int = -1
    ) -> Relations:
        """Compute query, key and value of one layer; the layers above it are not run."""
        encoder = self.masked_lm.encoder
        depth = range(len(encoder.layers))[layer]
        x = encoder(input_ids, attention_mask, depth=depth)  # (B, S, H)
        return Relations(*encoder.layers[depth].attention.project(x))

    @torch.no_grad()
    def compute_states_and_relations(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, layer: int = -1
    ) -> tuple[Tensor, Relations]:
        """Compute the final states, and query, key and value of one layer, in one pass."""
        encoder = self.masked_lm.encoder
        depth = range(len(encoder.layers))[layer]
        states = encoder(input_ids, attention_mask, depth=depth)  # (B, S, H)
        relations = Relations(*encoder.layers[depth].attention.project(states))
        for block in encoder.layers[depth:]:
            states = block(states, make_attention_mask(attention_mask))
        return states, relations

    @torch.no_grad()
    def compute_answers(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_types: Tensor | None = None,
    ) -> Tensor:
        """Compute the answers (B, outputs) of the fine-tuned task: logits, or a number."""
        require(self, "task")
        return self.classifier(input_ids, attention_mask, token_types)


def select_words(model: MaskedLM, ids: Tensor) -> MaskedLM:
    """Return a model with some of the words, ids (W,) in ascending order, under the ids 0 … W − 1.

    Its other weights are those of the model. Raises BortError if padding is not among the words.
    """
    config = model.config
    pad_id = find_padding(config.pad_id, ids)
    shift = config.pad_id - pad_id if config.position_offset else 0  # of the first token's position
    smaller = replace(
        config,
        vocab_size=len(ids),
        pad_id=pad_id,
        position_offset=config.position_offset - shift,
    )
    with torch.device("meta"):
        copy = MaskedLM(smaller)
    tables = {"encoder.embeddings.words.weight": ids, "head.bias": ids}
    weights = {
        key: weight[tables[key].to(weight.device)] if key in tables else weight
        for key, weight in model.state_dict().items()
    }
    positions = "encoder.embeddings.positions.weight"
    weights[positions] = weights[positions][shift:]
    copy.load_state_dict(weights, assign=True)
    return copy
