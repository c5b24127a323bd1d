"""FLOPs of whole trainings, validations and searches: two per multiply-add of a matrix product.

What torch's own counter counts on the same work: the layers, the head at the masked positions, the
teacher, Muon's orthogonalisation. Embeddings, softmaxes, LayerNorms and AdamW hold no product.
"""

from dataclasses import dataclass

from bort.config import Arch, Data, Train
from bort.cost import forward_flops
from bort.data import VAL_RATE
from bort.optim import NEWTON_SCHULZ_STEPS


@dataclass(frozen=True)
class Text:
    """What a model reads: tokens in sequences of `length`, of which `positions` are masked."""

    tokens: float
    length: int
    positions: float


def expected_text(sequences: float, length: int, rate: float, borders: float = 0.0) -> Text:
    """Sequences as they will be masked, with the expected number of masked positions.

    borders: share of the tokens that separate documents, which are never masked.
    """
    places = (length - 2) * (1 - borders)  # the first and the last token are special
    # a sequence in which none was chosen gets one
    masked = rate * places + (1 - rate) ** places
    return Text(sequences * length, length, sequences * masked)


def training_text(data: Data, batches: float, borders: float = 0.0) -> Text:
    """What so many training batches hold."""
    return expected_text(batches * data.batch_size, data.length, data.mask_rate, borders)


def validation_text(data: Data, borders: float = 0.0) -> Text:
    """What one validation reads, if the text has so many held-out sequences."""
    return expected_text(data.val_sequences, data.length, VAL_RATE, borders)


def states_flops(arch: Arch, text: Text) -> float:
    """Forward pass up to the head's states: all but the product with the vocabulary."""
    return forward_flops(arch, 0, text.length, text.positions / text.tokens) * text.tokens


def decoder_flops(hidden: int, vocab_size: int, positions: float) -> float:
    """Logits of head states: one product with the word embedding."""
    return 2 * hidden * vocab_size * positions


def logits_flops(arch: Arch, vocab_size: int, text: Text) -> float:
    """A whole forward pass."""
    return states_flops(arch, text) + decoder_flops(arch.hidden, vocab_size, text.positions)


def optimizer_flops(arch: Arch, optimizer: str) -> float:
    """One optimizer step: `muon` makes every matrix of the layers semi-orthogonal, AdamW is free.

    With rows ≤ columns, an iteration is two products rows × columns × rows and one of rows³.
    """
    if optimizer != "muon":
        return 0.0
    H, I = arch.hidden, arch.intermediate  # noqa: E741
    products = sum(
        count * (4 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3)
        for shape, count in (((H, H), 4), ((H, I), 2))
    )
    return arch.depth * NEWTON_SCHULZ_STEPS * products


def training_flops(arch: Arch, vocab_size: int, text: Text, steps: float, optimizer: str) -> float:
    """A model's own part of a training: forward, twice as much backward, and the optimizer."""
    return 3 * logits_flops(arch, vocab_size, text) + steps * optimizer_flops(arch, optimizer)


def candidate_flops(
    run: Train, teacher: Arch, vocab_size: int, train: Text, val: Text, batches: int
) -> float:
    """One candidate of a search: training, validations, its error; T's logits from kept states.

    run: the candidate's training, whose `max_steps` are n. train: all that it is trained on, in so
    many batches; val: what one validation reads.
    """
    arch, steps = run.arch, run.trainer["max_steps"]
    evaluations = validations(run, batches) + 1  # and the error that is recorded
    positions = train.positions + evaluations * val.positions
    return (
        training_flops(arch, vocab_size, train, steps, run.optim.name)
        + evaluations * logits_flops(arch, vocab_size, val)
        + decoder_flops(teacher.hidden, vocab_size, positions)
    )


def batches_of(run: Train, steps: int, per_epoch: int | None = None) -> int:
    """Batches of so many optimizer steps on one device.

    per_epoch: of the text, where that is known: what an epoch leaves of a step is a step.
    """
    group = (run.trainer or {}).get("accumulate_grad_batches") or 1
    if not per_epoch:
        return steps * group
    epochs, rest = divmod(steps, -(-per_epoch // group))
    return epochs * per_epoch + rest * group


def validations(run: Train, batches: int, per_epoch: int | None = None) -> int:
    """How many validations a run of so many batches makes, the one at its end included.

    per_epoch: batches of an epoch, where the run validates by epochs.
    """
    trainer = run.trainer or {}
    interval = trainer.get("val_check_interval")
    if trainer.get("check_val_every_n_epoch"):
        interval = (per_epoch or batches) * trainer["check_val_every_n_epoch"]
    if not interval or not batches:
        return 1
    return -(-batches // max(1, int(interval)))
