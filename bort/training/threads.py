"""How many threads of the processor a training takes: as many as make its steps fastest.

A step of a small model is many short operations, and all threads wait for each other after each of
them: there, one thread is often faster than all. Sums of floats depend on the number of threads, so
it is chosen once, before a run begins, and the run keeps it.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from bort.config.distill import DistillConfig
from bort.config.fingerprint import fingerprint
from bort.config.search import SearchRunConfig
from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.files.cache import locate_cache
from bort.files.untrusted import read_json
from bort.files.writing import write_json
from bort.machine import count_default_threads, is_busy, is_thread_number_set
from bort.models.arch import Arch
from bort.models.bert import MaskedLM, ModelConfig
from bort.models.initialization import build_model
from bort.training.optim import build_optimizer, clip_gradients
from bort.training.precision import (
    autocast_training,
    is_trained_on_cpu,
    list_models,
    list_products,
)
from bort.training.products import describe_processor

logger = logging.getLogger(__name__)

MOST_FLOPS = 1e10  # of a step that is timed; a larger one keeps all cores busy
GAIN = 0.95  # of the time with all threads, up to which fewer are taken
SECONDS = 0.5  # of timing, after one step with each number of threads for warming up
ROUNDS = range(4, 16)  # so many of them: the least time of each number counts
LEAST_SHARE = 0.9  # of the time with one thread in which it computes; less is no measurement

Seconds = dict[int, float]  # of a step, by the number of threads


@contextmanager
def use_threads(count: int | None) -> Iterator[None]:
    """Compute with so many threads; with as many as now for None, 0, or where others have chosen.

    Others are the user, a launcher of several processes, and who calls this within this.
    """
    before = torch.get_num_threads()
    if not count or count == before or is_set_by_others():
        yield  # without a call, because that also turns off what MKL decides by itself
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_set_by_others() -> bool:
    """Return whether somebody has set the number of threads, which then stays as it is."""
    return is_thread_number_set() or torch.get_num_threads() not in count_default_threads()


def choose_threads(run: TrainConfig, recorded: int | None) -> int | None:
    """Choose the number of threads of a training, and log it where it is smaller than all.

    recorded: the number of the run in its folder, which stays if that is resumed; 0 where that has
    none, None where there is no run. Returns None where there is no choice: somebody has set the
    number, the training is not one process, a GPU does it, a step is too large to gain, or the
    machine is too busy to tell.
    """
    most = torch.get_num_threads()
    if is_set_by_others() or not is_alone(run) or not is_trained_on_cpu(run):
        return None
    if run.resume and recorded is not None:
        return min(recorded, most)
    if most == 1 or (step := plan_step(run)) is None:
        return None
    seconds = recall_seconds(step) or measure_and_keep(step)
    if seconds is None:
        return None
    chosen = find_fastest(seconds)
    if chosen < most:
        factor = seconds[chosen] / seconds[most]
        logger.info(
            f"threads: {chosen} of {most}; {factor:.2g} × the time of a step with {most} threads"
        )
    return chosen


def is_alone(run: TrainConfig) -> bool:
    """Return whether one process at a time trains for this run."""
    if isinstance(run, SearchRunConfig) and run.search.parallel > 1:
        return False
    trainer = run.trainer_config
    return trainer.is_one_device and trainer.num_nodes == 1 and "LOCAL_RANK" not in os.environ


def find_fastest(seconds: Seconds) -> int:
    """Find the number of threads with the fastest steps; all where fewer gain next to nothing."""
    fastest, most = min(seconds, key=seconds.get), max(seconds)
    return fastest if seconds[fastest] <= GAIN * seconds[most] else most


# --------------------------------------------------------------------------- the step that is timed


@dataclass(frozen=True)
class Step:
    """What decides how long a step takes: the run, and the models that read its batch.

    vocab: the rows of their word matrices. masked: the positions whose words are predicted.
    teacher: None where the student learns without one.
    """

    run: TrainConfig
    student: Arch
    teacher: Arch | None
    vocab: int
    masked: int

    def __str__(self) -> str:
        """Name it in the cache."""
        data, optim = self.run.data, self.run.optim.name
        models = f"{self.student} {self.teacher or ''} {self.vocab}"
        batch = f"{data.batch_size}x{data.length} {self.masked}"
        return f"{models} {batch} {optim} {self.run.trainer_config.precision}"

    def count_flops(self) -> float:
        """Count the operations of its linear layers."""
        rows, total = self.run.data.batch_size * self.run.data.length, 0.0
        for arch, passes in ((self.student, 3), (self.teacher, 1)):
            sizes = list_products(arch, rows, self.vocab, self.masked) if arch else ()
            total += passes * sum(count * size.flops for size, count in sizes)
        return total


def plan_step(run: TrainConfig) -> Step | None:
    """Plan the step that is timed for a run; None where it is too large to gain by fewer threads.

    A search trains candidates of many sizes on kept states of T; that of the middle stands for all.
    """
    fits_task = run.fits_task
    if isinstance(run, SearchRunConfig):
        archs = sorted(run.grid.points()[0], key=lambda arch: (arch.hidden, arch.depth, arch))
        distill = DistillConfig(w_kd=0.0, w_mlm=1.0)
        run = run.to_pretraining(arch=archs[len(archs) // 2], distill=distill)
    models = list(list_models(run, fetches=False))
    student, vocab, _ = models[0]
    teacher = models[1][0] if len(models) > 1 else None
    rows = run.data.batch_size * run.data.length
    # A task has one answer for each text, and few words of the matrix in a batch.
    masked = run.data.batch_size if fits_task else max(1, round(rows * run.data.mask_rate))
    step = Step(run, student, teacher, vocab or run.data.bpe_size, masked)
    return step if step.count_flops() <= MOST_FLOPS else None


def make_step(step: Step) -> Callable[[], None]:
    """Build a call that trains a model of random weights for one step, on random words."""
    run, random = step.run, torch.Generator().manual_seed(0)
    shape = (run.data.batch_size, run.data.length)
    ids = torch.randint(step.vocab, shape, generator=random)
    positions = torch.randperm(ids.numel(), generator=random)[: step.masked].sort().values
    target = torch.randint(step.vocab, (step.masked,), generator=random)
    student = _build_model(step.student, step)
    teacher = None if step.teacher is None else _build_model(step.teacher, step).eval()
    optimizer = build_optimizer(student, replace(run.optim, lr=1e-6))

    def take_step() -> None:
        answer = target
        with autocast_training(run, torch.device("cpu")):
            if teacher is not None:
                with torch.no_grad():
                    answer = teacher(ids, positions=positions).float().softmax(-1)
            logits = student(ids, positions=positions)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), answer).backward()
        clip_gradients(student, 1.0)
        optimizer.step()

    return take_step


def _build_model(arch: Arch, step: Step) -> MaskedLM:
    positions = max(step.run.data.length, 512)
    return build_model(ModelConfig(**arch.to_table(), vocab_size=step.vocab, positions=positions))


def measure_seconds(step: Step) -> Seconds | None:
    """Measure a step with all threads, and with a half, a quarter … of them, in turns.

    The least time of each counts: whatever else the machine does only adds to it. Returns None
    where other processes took too much of the time to tell.
    """
    most = torch.get_num_threads()
    counts = [most >> half for half in range(most.bit_length())]  # the last one is 1
    times: dict[int, list[float]] = {count: [] for count in counts}
    take_step, computed = make_step(step), 0.0
    try:
        for count in counts:
            torch.set_num_threads(count)
            take_step()
        end = time.perf_counter() + SECONDS
        for number in range(ROUNDS.stop):
            for count in counts:
                torch.set_num_threads(count)
                start, used = time.perf_counter(), time.process_time()
                take_step()
                times[count].append(time.perf_counter() - start)
            computed += time.process_time() - used
            if number + 1 >= ROUNDS.start and time.perf_counter() > end:
                break
    finally:
        torch.set_num_threads(most)
    if computed < LEAST_SHARE * sum(times[1]):
        return None
    return {count: min(values) for count, values in times.items()}


# ---------------------------------------------------------------------------------- in the cache


def locate_seconds() -> Path:
    """Return the file of the cache with the times of steps on this machine."""
    return locate_cache() / "threads" / f"{fingerprint(describe_processor())}.json"


def _read_table() -> dict[str, dict[str, float]]:
    try:
        table = read_json(locate_seconds())["seconds"]
        return table if isinstance(table, dict) else {}
    except (BortError, KeyError):
        return {}


def recall_seconds(step: Step) -> Seconds | None:
    """Return the times of a step that was measured on this machine before; None without them."""
    try:
        seconds = {int(count): float(value) for count, value in _read_table()[str(step)].items()}
    except (KeyError, AttributeError, TypeError, ValueError):
        return None
    return seconds if torch.get_num_threads() in seconds and min(seconds.values()) > 0 else None


def measure_and_keep(step: Step) -> Seconds | None:
    """Do what `measure_seconds` does, and keep the times in the cache where that can be written.

    They are not kept if other processes wanted the processor, too.
    """
    seconds = measure_seconds(step)
    if seconds is not None and not is_busy():
        try:
            table = _read_table() | {str(step): {str(n): value for n, value in seconds.items()}}
            write_json(locate_seconds(), {"machine": describe_processor(), "seconds": table})
        except BortError:
            pass
    return seconds
