"""FLOPs of trainings, validations and searches: two per multiply-add of a matrix product.

The counts equal those of torch's own counter: the layers, the head at the masked positions, the
teacher, and Muon's orthogonalisation. Embeddings, softmaxes, LayerNorms and AdamW have no matrix
products.
"""

from dataclasses import dataclass, replace

from bort.config.distill import DistillConfig
from bort.config.train import TrainConfig
from bort.models.arch import Arch
from bort.objectives.parameters import count_forward_flops
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import LOOK_EVERY
from bort.pretraining.masking import VAL_RATE
from bort.training.optim import NEWTON_SCHULZ_STEPS


@dataclass(frozen=True)
class Text:
    """The text a model reads: tokens in sequences of `length`, of which `positions` are masked."""

    tokens: float
    length: int
    positions: float


def expect_text(sequences: float, length: int, rate: float, borders: float = 0.0) -> Text:
    """Return the text of so many sequences, with the expected number of masked positions.

    borders: the share of tokens that separate documents, which are never masked.
    """
    maskable = (length - 2) * (1 - borders)  # the first and the last token are special
    # a sequence in which no token was chosen gets one masked position
    masked = rate * maskable + (1 - rate) ** maskable
    return Text(sequences * length, length, sequences * masked)


def count_states_flops(arch: Arch, text: Text) -> float:
    """Count a forward pass up to the head states, without the product with the vocabulary."""
    layers = count_forward_flops(arch, 0, text.length, mask_rate=0.0) * text.tokens
    return layers + 2 * arch.hidden**2 * text.positions


def count_decoder_flops(hidden: int, vocab_size: int, positions: float) -> float:
    """Count the logits of head states: one product with the word embedding."""
    return 2 * hidden * vocab_size * positions


def count_logits_flops(arch: Arch, vocab_size: int, text: Text) -> float:
    """Count a whole forward pass."""
    return count_states_flops(arch, text) + count_decoder_flops(
        arch.hidden, vocab_size, text.positions
    )


def count_optimizer_flops(arch: Arch, optimizer: str) -> float:
    """Count an optimizer step: Muon orthogonalises every matrix of the layers, AdamW is free.

    With rows ≤ columns, an iteration has two products rows × columns × rows and one of rows³.
    """
    if optimizer != "muon":
        return 0.0
    H, I = arch.hidden, arch.intermediate  # noqa: E741
    products = sum(
        count * (4 * min(shape) ** 2 * max(shape) + 2 * min(shape) ** 3)
        for shape, count in (((H, H), 4), ((H, I), 2))
    )
    return arch.depth * NEWTON_SCHULZ_STEPS * products


def count_training_flops(
    arch: Arch, vocab_size: int, text: Text, steps: float, optimizer: str
) -> float:
    """Count a model's part of a training: forward, twice as much backward, and the optimizer."""
    return 3 * count_logits_flops(arch, vocab_size, text) + steps * count_optimizer_flops(
        arch, optimizer
    )


def count_optimizer_share(run: TrainConfig, vocab_size: int, amount: "Amount") -> float:
    """Return the share of the optimizer in the FLOPs of the student's steps; 0 without steps."""
    work = amount.steps * count_optimizer_flops(run.arch, run.optim.name)
    amount = repeat_amount(amount, *count_student_readings(run.distill))
    passes = 3 * count_logits_flops(run.arch, vocab_size, amount.train)
    return work / (work + passes) if work else 0.0


@dataclass(frozen=True)
class Amount:
    """The amount of work of a training: its optimizer steps, batches, validations and texts.

    validations: their number; those that read only a part of the text `val` count as parts.
    """

    steps: int
    batches: int
    validations: float
    train: Text
    val: Text
    padding: float = 0.0  # the share of the training text that is padding

    @property
    def tokens(self) -> float:
        """The tokens of the training text without padding."""
        return self.train.tokens * (1 - self.padding)


def repeat_readings(text: Text, masked: int, unmasked: int) -> Text:
    """Return the text of passes that read it so many times with and without masks."""
    tokens = text.tokens * (masked + unmasked)
    return Text(tokens, text.length, text.positions * masked)


def repeat_amount(amount: Amount, masked: int, unmasked: int) -> Amount:
    """Return the amount of passes that read the text so many times with and without masks."""
    train, val = (repeat_readings(text, masked, unmasked) for text in (amount.train, amount.val))
    return replace(amount, train=train, val=val)


def count_student_readings(distill: DistillConfig) -> tuple[int, int]:
    """Count how many times a student reads a text with masks, and how many times without."""
    return int(distill.reads_masked), int(distill.reads_unmasked)


def count_teacher_readings(distill: DistillConfig) -> tuple[int, int]:
    """Count how many times its teacher reads a text with masks, and how many times without."""
    return int(bool(distill.w_kd)), int(bool(distill.w_hidden)) + int(bool(distill.w_relation))


def estimate_states_bytes(run: TrainConfig, hidden: int, amount: Amount, held: int) -> dict:
    """Estimate the disk that a teacher's final states would take, of the splits worth keeping.

    They are worth it where a text is read more often than its sequences are many: over two epochs,
    or in two validations. hidden: the teacher's width. held: the number of training sequences.
    Returns bytes by split.
    """
    if not run.distill.w_hidden or run.distill.w_relation:  # relations need the pass in any case
        return {}
    row, counts = 2 * hidden * run.data.length, {}
    if amount.train.tokens >= 2 * held * run.data.length > 0:
        counts["train"] = held * row
    if amount.validations >= 2:
        counts["val"] = round(amount.val.tokens / run.data.length) * row
    budget = run.distill.states_gb * 1e9
    while counts and sum(counts.values()) > budget:
        counts.pop(next(iter(counts)))
    return counts


def count_student_flops(run: TrainConfig, vocab_size: int, amount: Amount) -> float:
    """Count the work of the trained model in a run: its steps and validations."""
    amount = repeat_amount(amount, *count_student_readings(run.distill))
    training = count_training_flops(
        run.arch, vocab_size, amount.train, amount.steps, run.optim.name
    )
    return training + amount.validations * count_logits_flops(run.arch, vocab_size, amount.val)


def count_teacher_flops(teacher: Arch, vocab_size: int, amount: Amount) -> float:
    """Count the teacher's passes over all training and validation batches, without a cache."""
    val = count_logits_flops(teacher, vocab_size, amount.val)
    return count_logits_flops(teacher, vocab_size, amount.train) + amount.validations * val


def count_candidate_flops(
    run: TrainConfig, teacher: Arch, vocab_size: int, amount: Amount, held: Text
) -> float:
    """Count a candidate of a search: training and error, with the teacher's states cached.

    amount: of its training, whose validations read a part of the held-out text; held: all of it,
    which decides the error. The teacher's probabilities there are counted once for each candidate,
    though a process keeps most of them for the next one; of final states there are none. The
    projection of a student's states is not counted.
    """
    masked, unmasked = count_student_readings(run.distill)
    held = repeat_readings(held, masked, unmasked)
    positions = amount.train.positions * masked + held.positions
    return (
        count_student_flops(run, vocab_size, amount)
        + count_logits_flops(run.arch, vocab_size, held)
        + count_decoder_flops(teacher.hidden, vocab_size, positions)
    )


def count_batches(run: TrainConfig, steps: int, per_epoch: int | None = None) -> int:
    """Count the batches of so many optimizer steps on one device.

    per_epoch: the batches of an epoch, if known; the last step of an epoch may have fewer batches.
    """
    group = run.trainer_config.accumulate_grad_batches
    if not per_epoch:
        return steps * group
    epochs, remainder = divmod(steps, -(-per_epoch // group))
    return epochs * per_epoch + remainder * group


def count_validations(run: TrainConfig, batches: int, per_epoch: int | None = None) -> int:
    """Count the validations of a run of so many batches, including the one at its end.

    per_epoch: the batches of an epoch, if the run validates by epochs.
    """
    trainer = run.trainer_config
    interval = trainer.val_check_interval
    if trainer.check_val_every_n_epoch:
        interval = (per_epoch or batches) * trainer.check_val_every_n_epoch
    if not interval or not batches:
        return 1
    return -(-batches // max(1, int(interval)))


def count_looks(amount: Amount) -> Amount:
    """Count all validations as looks at a part of the text, with one more at all of it."""
    if not amount.validations:
        return amount
    return replace(amount, validations=amount.validations / LOOK_EVERY + 1)


def measure_amount(run: TrainConfig, corpus: Corpus | None) -> Amount:
    """Measure the steps, batches and text of a run, by its corpus if that is already built.

    There are 0 steps if only the clock, or an epoch of a text not read yet, ends the run.
    """
    trainer, data, size = run.trainer_config, run.data, run.data.batch_size * _count_processes(run)
    per_epoch, held = None, data.val_sequences
    borders, padding = {"train": 0.0, "val": 0.0}, 0.0
    if corpus is not None:
        counts = {split: corpus.count_sequences(split, data) for split in borders}
        per_epoch, held = -(-counts["train"] // size), min(held, counts["val"])
        gaps = {split: corpus.measure_gaps(split, data) for split in borders}
        borders = {split: sum(shares) for split, shares in gaps.items()}
        padding = gaps["train"][1] * (data.length - 2) / data.length
    steps = max(trainer.max_steps, 0)
    if (trainer.max_epochs or -1) > 0 and per_epoch:
        by_epochs = trainer.max_epochs * -(-per_epoch // trainer.accumulate_grad_batches)
        steps = min(steps, by_epochs) if steps else by_epochs
    batches = count_batches(run, steps, per_epoch)
    read = batches * size
    if per_epoch:  # the last batch of an epoch may be smaller
        epochs, remainder = divmod(batches, per_epoch)
        read = epochs * counts["train"] + remainder * size
    train = expect_text(read, data.length, data.mask_rate, borders["train"])
    val = expect_text(held, data.length, VAL_RATE, borders["val"])
    validations = count_validations(run, batches, per_epoch) if held else 0
    return Amount(steps, batches, validations, train, val, padding)


def _count_processes(run: TrainConfig) -> int:
    """Count the devices that train together, each on its own batches."""
    devices = run.trainer_config.devices
    count = len(devices) if isinstance(devices, list) else int(devices) if _is_count(devices) else 1
    return max(1, count) * run.trainer_config.num_nodes


def _is_count(devices: object) -> bool:
    return isinstance(devices, int) or (isinstance(devices, str) and devices.isdigit())
