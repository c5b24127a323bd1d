"""What all candidates of a search read: the text, T, T's answers, and the held-out batches.

A process opens the text and T once for the search in a folder, not again for each candidate.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from bort.config.data import DataConfig
from bort.config.search import SearchRunConfig
from bort.files.run_files import ENTROPY
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import LOOK_EVERY, TrainBatches, ValBatches
from bort.pretraining.flops import Amount, Text, count_batches
from bort.pretraining.recipe import prepare
from bort.pretraining.teacher import Sources, hash_teacher
from bort.runs.folder import RunFolder
from bort.teachers.states import TeacherStates, UnmaskedText, compute_text_states
from bort.teachers.teacher import Teacher
from bort.trials.error import TeacherAnswers
from bort.trials.plan import locate_val_pass

POSITIONS = 8192  # at least so many masked positions decide an error

# What this process has opened for the search in a folder, and not again for each candidate.
_open: dict[Path, tuple[Corpus, Teacher]] = {}
_answers: dict[Path, TeacherAnswers] = {}


def open_corpus_and_teacher(
    run: SearchRunConfig, folder: Path, sources: Sources | None = None
) -> tuple[Corpus, Teacher]:
    """Open the corpus and T of the search in `folder`; the second time costs nothing.

    sources: what `open_sources` has opened, where it has.
    """
    key = folder.resolve()
    if key not in _open:
        _open.clear()
        corpus, teacher = prepare(run, folder, sources)
        RunFolder(folder).check_inputs(corpus.info.to_json(), hash_teacher(run, corpus), run)
        _open[key] = corpus, teacher
    return _open[key]


def open_answers(folder: Path, teacher: Teacher) -> TeacherAnswers:
    """Open T's answers to the held-out batches of the search in `folder`; the second time is free.

    They are opened again when the states on the disk are other ones by then.
    """
    key = folder.resolve()
    states = TeacherStates(locate_val_pass(folder), teacher.head_width)
    answers = _answers.get(key)
    if answers is None or not np.array_equal(answers.states.digests, states.digests):
        entropy = np.load(RunFolder(folder).teacher / ENTROPY)
        _answers.clear()
        _answers[key] = answers = TeacherAnswers(teacher, states, entropy)
    return answers


def forget_corpus_and_teacher() -> None:
    """Have them opened again: the cache may be another one by now."""
    _open.clear()
    _answers.clear()


def count_held_sequences(data: DataConfig) -> int:
    """Count the held-out sequences that decide an error, if the text has so many."""
    return max(data.val_sequences, math.ceil(POSITIONS / (0.14 * data.length)))


def make_val_batches(corpus: Corpus, run: SearchRunConfig) -> ValBatches:
    """Make held-out batches with at least POSITIONS masked positions, if the text has them.

    Where final states are compared, they have the unmasked texts, too.
    """
    data = replace(run.data, val_sequences=count_held_sequences(run.data))
    return ValBatches(corpus, data, name_texts(run))


def name_texts(run: SearchRunConfig) -> UnmaskedText | None:
    """Say whether batches have unmasked texts, too; T's states of them are added batch by batch."""
    return UnmaskedText() if run.compares_states else None


def open_states(path: Path, teacher: Teacher, run: SearchRunConfig) -> TeacherStates:
    """Open what is kept of T's pass: its final states of texts, or those at masked positions."""
    if run.compares_states:
        return TeacherStates(path, teacher.arch.hidden, compute_text_states)
    return TeacherStates(path, teacher.head_width)


def measure_training(
    run: SearchRunConfig, corpus: Corpus, states: TeacherStates, batches: int
) -> Text:
    """Measure the text of a candidate's first batches, over which T has run."""
    data = TrainBatches(corpus, run.data, run.seed)
    epochs, further = divmod(batches, len(data))  # an epoch's last batch may be a smaller one
    sequences = epochs * data.sequences.count + further * data.batch_size
    positions = 0 if run.compares_states else int(states.ends[batches])
    return Text(sequences * run.data.length, run.data.length, positions)


def measure_leg(
    run: SearchRunConfig, corpus: Corpus, states: TeacherStates, first: int, steps: int
) -> Amount:
    """Measure the work of a candidate's steps after the `first` ones, up to so many in all."""
    counts = [count_training_batches(run, corpus, number) for number in (first, steps)]
    before, text = (measure_training(run, corpus, states, count) for count in counts)
    part = Text(text.tokens - before.tokens, text.length, text.positions - before.positions)
    return Amount(steps - first, counts[1] - counts[0], 0, part, Text(0, text.length, 0))


def count_training_batches(run: SearchRunConfig, corpus: Corpus, steps: int) -> int:
    """Count the batches of a candidate's first steps."""
    per_epoch = len(TrainBatches(corpus, run.data, run.seed))
    return count_batches(run, steps, per_epoch)


def measure_look(val: ValBatches) -> Text:
    """Measure the text that a validation of a candidate's training reads."""
    batches = [val[number] for number in range(0, len(val), LOOK_EVERY)]
    tokens = sum(batch["input_ids"].numel() for batch in batches)
    positions = sum(len(batch["positions"]) for batch in batches)
    return Text(tokens, val.sequences.length, positions)


def expect_look(held: Text, data: DataConfig) -> Text:
    """Return what `measure_look` is expected to measure of so much held-out text."""
    size = 4 * data.batch_size * data.length  # tokens of a batch of ValBatches
    starts = range(0, math.ceil(held.tokens), LOOK_EVERY * size)
    tokens = sum(min(size, held.tokens - start) for start in starts)
    return Text(tokens, held.length, held.positions * tokens / max(held.tokens, 1))
