"""Before the trainings of a search: each candidate's p and î, T's one pass, and what it will cost.

All candidates share batches, masks and T's outputs (arXiv 2010.10499, §3).
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from bort.config.search import SearchRunConfig
from bort.console import Progress
from bort.errors import BortError
from bort.files.checked import read_checked, save_array, write_checked
from bort.files.run_files import DOCUMENTS, ENTROPY, LATENCIES
from bort.models import hub
from bort.models.arch import Arch
from bort.models.in_bf16 import is_bf16_autocast
from bort.objectives.latency import Latencies, measure_latencies
from bort.objectives.latency_table import read_latency_table
from bort.objectives.parameters import count_parameters
from bort.pretraining.corpus import Corpus
from bort.pretraining.datamodule import TrainBatches
from bort.pretraining.flops import (
    Amount,
    Text,
    count_candidate_flops,
    count_logits_flops,
    count_states_flops,
    count_validations,
)
from bort.runs.folder import RunFolder
from bort.teachers.opening import read_shape
from bort.teachers.states import TeacherStates
from bort.teachers.teacher import Teacher
from bort.training.precision import autocast_training
from bort.training.trainer import choose_device
from bort.trials.error import measure_teacher
from bort.trials.inputs import (
    count_training_batches,
    make_val_batches,
    measure_look,
    measure_training,
    name_texts,
    open_states,
)
from bort.trials.plan import (
    GridPoint,
    MaximumPoint,
    SearchPlan,
    locate_training_pass,
    locate_val_pass,
    write_plan,
)
from bort.trials.states import measure_constant
from bort.trials.training import make_candidate_settings

logger = logging.getLogger(__name__)


def check_latency(run: SearchRunConfig, folder: Path) -> None:
    """Raise BortError, before T is trained, for a latency table that cannot be used."""
    if run.latency.source != "table" or (run.resume and (folder / LATENCIES).exists()):
        return
    archs = run.grid.points()[0]
    if run.teacher.name is None:
        archs = [run.teacher.arch, *archs]
    elif isinstance(teacher := hub.find_model(run.teacher.name), Path):
        archs = [read_shape(teacher).arch, *archs]
    read_latency_table(Path(run.latency.path), list(dict.fromkeys(archs)))


def measure_latency(
    run: SearchRunConfig, teacher: Arch, vocab_size: int, folder: Path
) -> Latencies:
    """Measure î of T and of every candidate, by `latency.source`, once: latency.json keeps it."""
    path = folder / LATENCIES
    if path.exists():
        return Latencies.from_json(read_checked(path, "delete it and repeat the command"))
    archs = list(dict.fromkeys([teacher, *run.grid.points()[0]]))
    latency = measure_latencies(run.latency, archs, teacher, vocab_size, folder)
    write_checked(path, latency.to_json())
    return latency


def check_validation(run: SearchRunConfig, corpus: Corpus) -> None:
    """Raise BortError for a text without held-out sequences."""
    if not len(make_val_batches(corpus, run)):
        raise BortError("search.py needs validation text; raise data.val_fraction")


def list_candidates(
    run: SearchRunConfig, folder: Path, teacher: Teacher, digest: str
) -> SearchPlan:
    """List T and every point with p and î; T's error and the FLOPs are not known yet.

    digest: of T.
    """
    vocab, shape = teacher.vocab_size, teacher.arch
    latency = measure_latency(run, shape, vocab, folder)
    valid, invalid = run.grid.points()
    positions = max(run.data.length, 512)
    return SearchPlan(
        MaximumPoint(
            shape,
            run.teacher.name,
            digest,
            teacher.parameter_count,
            latency.points[shape],
        ),
        [
            GridPoint(
                xi,
                count_parameters(xi, vocab, positions),
                count_parameters(xi, 0, 0),
                latency.points[xi],
            )
            for xi in valid
        ],
        invalid,
        run.search.exponents,
        latency.unit,
        latency.note,
    )


def complete_plan(
    plan: SearchPlan, run: SearchRunConfig, folder: Path, corpus: Corpus, teacher: Teacher
) -> SearchPlan:
    """Let T run, and write the plan with T's error and the FLOPs; all on the disk."""
    val = make_val_batches(corpus, run)
    start = time.monotonic()
    states = _pass_over_validation(run, folder, teacher, val)
    text = pass_over_training(run, folder, corpus, teacher, run.seed)
    if run.compares_states:
        tokens, unigram = measure_constant(states, len(val))
        entropy = np.zeros(tokens, dtype=np.float32)
    else:
        entropy, unigram = measure_teacher(teacher, val, states, corpus)
    save_array(RunFolder(folder).teacher / ENTROPY, entropy)
    documents, length = val.documents(run.compares_states), run.data.length
    held = Text(len(val.chosen) * length, length, 0 if run.compares_states else len(entropy))
    look = measure_look(val)
    save_array(RunFolder(folder).teacher / DOCUMENTS, documents)
    error = float(entropy.mean(dtype=np.float64))
    plan = replace(
        plan,
        teacher=replace(plan.teacher, error=error, unigram_error=unigram),
        positions=len(entropy),
        documents=len(np.unique(documents)),
        points=_count_flops(plan, run, corpus, teacher, (text, held, look)),
        teacher_flops=count_states_flops(teacher.arch, text),
        teacher_val_flops=count_logits_flops(teacher.arch, teacher.vocab_size, held),
        teacher_pass_seconds=time.monotonic() - start,
    )
    return write_plan(folder, plan, run, corpus.info.digest)


def restore_passes(run: SearchRunConfig, folder: Path, corpus: Corpus, teacher: Teacher) -> None:
    """Make those of T's states again that are no longer as they were written."""
    _pass_over_validation(run, folder, teacher, make_val_batches(corpus, run))
    pass_over_training(run, folder, corpus, teacher, run.seed)


def pass_over_training(
    run: SearchRunConfig, folder: Path, corpus: Corpus, teacher: Teacher, seed: int
) -> Text:
    """Keep T's states over a candidate's batches of this seed; returns what they were made from."""
    states = open_states(locate_training_pass(folder, seed), teacher, run)
    data = TrainBatches(corpus, run.data, seed, name_texts(run))
    batches = count_training_batches(run, corpus, run.search.n)
    tick = Progress(logger, "teacher: training batch").update
    teacher = teacher.to(choose_device(run))
    with autocast_training(run, device := teacher.device):
        teacher = teacher.copy_in_bf16() if is_bf16_autocast(device) else teacher
        states.build(teacher, data, batches, tick)
    return measure_training(run, corpus, states, batches)


def _pass_over_validation(
    run: SearchRunConfig, folder: Path, teacher: Teacher, val: Dataset
) -> TeacherStates:
    """Keep T's states over the held-out batches."""
    states = open_states(locate_val_pass(folder), teacher, run)
    tick = Progress(logger, "teacher: validation batch").update
    states.build(teacher.to(choose_device(run)), val, len(val), tick)
    return states


def _count_flops(
    plan: SearchPlan,
    run: SearchRunConfig,
    corpus: Corpus,
    teacher: Teacher,
    texts: tuple[Text, ...],
) -> list[GridPoint]:
    """Count the FLOPs of every candidate's training.

    texts: what T has read in training, of held-out text, and what a validation looks at.
    """
    train, held, look = texts
    n = run.search.n
    batches = count_training_batches(run, corpus, n)
    sequences, points = int(held.tokens / held.length), []
    for point in plan.points:
        settings = make_candidate_settings(replace(run, arch=point.xi), sequences)
        looks = settings.trainer_config.limit_val_batches != 0
        validations = count_validations(settings, batches) if looks else 0
        amount = Amount(n, batches, validations, train, look)
        count = count_candidate_flops(settings, teacher.arch, teacher.vocab_size, amount, held)
        points.append(replace(point, flops=count))
    return points
