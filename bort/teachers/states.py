"""The teacher's states for all batches, computed once and kept on disk for all its students.

Letters: B sequences of a batch, S tokens of a sequence, M masked positions of a batch, H_T hidden
size of the teacher, V vocabulary.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch.utils.data import Dataset

from bort.files.digests import read_array, write_array
from bort.teachers.teacher import Teacher

logger = logging.getLogger(__name__)


def read_masked(
    batch: dict[str, torch.Tensor], device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return input_ids (B, S), positions (M,) and attention_mask (B, S) of a batch, on a device.

    The last is None where nothing is padded. Without a device, they stay where they are.
    """
    ids, positions, mask = map(batch.get, ("input_ids", "positions", "attention_mask"))
    if device is None:
        return ids, positions, mask
    return ids.to(device), positions.to(device), None if mask is None else mask.to(device)


def compute_head_states(teacher: Teacher, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the head states (M, H_T) at the masked positions of a batch."""
    return teacher.compute_head_states(*read_masked(batch, teacher.device))


def compute_text_states(teacher: Teacher, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Compute the final states (B · S, H_T) of the unmasked texts of a batch."""
    texts, mask = batch["texts"].to(teacher.device), batch.get("text_mask")
    mask = None if mask is None else mask.to(teacher.device)
    return teacher.compute_states(texts, mask).flatten(0, 1)


class TeacherStates:
    """A teacher's states of batches 0, 1, …, on disk.

    They are in half precision. Head states at masked positions take 2 H_T bytes per position, while
    logits would take 4 V; the teacher's decoder turns them into logits. Final states take 2 H_T
    bytes per token. They are written in order, and writing resumes after a kill. If the states of a
    batch are damaged, they and all later ones are computed again.

    hidden: H_T. compute: what computes the states of a batch.
    """

    EVERY = 64  # batches between two updates of the index

    def __init__(
        self,
        path: Path,
        hidden: int,
        compute: Callable[[Teacher, dict], torch.Tensor] = compute_head_states,
    ):
        self.states, self.index = path.with_suffix(".f16"), path.with_suffix(".npy")
        self.hidden, self.compute = hidden, compute
        self.ends, self.digests = self._whole()  # (batches + 1,), (batches,)
        self.rows: np.ndarray | None = None

    def _whole(self) -> tuple[np.ndarray, np.ndarray]:
        """Read the ends and digests of the batches on disk, up to the first damaged one."""
        if not self.index.exists():
            return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        self.states.touch()  # a lost file counts as a damaged one
        versions = ((s.st_size, s.st_ctime_ns) for s in (self.states.stat(), self.index.stat()))
        ends, digests, count = _check_states(self.states, self.index, self.hidden, *versions)
        if count < len(digests) or len(ends) == 1:
            logger.info(
                f"teacher: its kept states in {self.states} are damaged; they are made again"
            )
        return ends[: count + 1], digests[:count]

    @property
    def is_of_texts(self) -> bool:
        """Whether they are the final states of all tokens, not head states at masked positions."""
        return self.compute is compute_text_states

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, batch: int) -> np.ndarray:
        """Return the states of a batch: (M, H_T) float16."""
        return np.array(self._open_rows()[self.ends[batch] : self.ends[batch + 1]])

    def take(self, sequences: np.ndarray, length: int) -> np.ndarray:
        """Return the states of some sequences (B,) of `length` tokens: (B, S, H_T) float16.

        They are counted from the first one of batch 0.
        """
        return self._open_rows().reshape(-1, length, self.hidden)[sequences]

    def _open_rows(self) -> np.ndarray:
        """Return all states (…, H_T), memory-mapped."""
        if self.rows is None:  # opened by the worker: pickling would copy it
            self.rows = np.memmap(self.states, dtype=np.float16, mode="r").reshape(-1, self.hidden)
        return self.rows

    @torch.no_grad()
    def build(
        self, teacher: Teacher, batches: Dataset, count: int, tick: Callable[[int, int], None]
    ) -> int:
        """Compute the missing states of batches 0 … count - 1; return how many were missing."""
        done = len(self)
        if done >= count:
            return 0
        self.states.parent.mkdir(parents=True, exist_ok=True)
        ends, digests = self.ends.tolist(), self.digests.tolist()
        with self.states.open("ab") as file:
            file.truncate(ends[-1] * self.hidden * 2)
            for number in range(done, count):
                rows = self.compute(teacher, batches[number])
                content = rows.half().cpu().numpy().tobytes()
                file.write(content)
                ends.append(ends[-1] + len(rows))
                digests.append(xxhash.xxh3_64_intdigest(content))
                tick(number + 1, count)
                if (number + 1) % self.EVERY == 0 or number + 1 == count:
                    file.flush()
                    os.fsync(file.fileno())
                    write_array(self.index, np.array([ends, [0, *digests]], dtype=np.uint64).T)
        self.ends, self.digests = np.array(ends, dtype=np.int64), np.array(digests, dtype=np.uint64)
        self.rows = None
        return count - done


@lru_cache(maxsize=16)
def _check_states(
    states: Path, index: Path, hidden: int, *versions: tuple
) -> tuple[np.ndarray, np.ndarray, int]:
    """Read the ends and digests of an index, and count the batches before the first damaged one.

    A process does this only once, as long as the files do not change.
    """
    table = read_array(index)  # (batches + 1, 2): the end of each batch, and its digest
    if table is None or table.ndim != 2:
        return np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.uint64), 0
    ends, digests = table[:, 0].astype(np.int64), table[1:, 1]
    with states.open("rb") as file:
        for batch, (size, digest) in enumerate(zip(np.diff(ends), digests, strict=True)):
            content = file.read(int(size) * hidden * 2)
            if xxhash.xxh3_64_intdigest(content) != digest:
                return ends, digests, batch
    return ends, digests, len(digests)


@dataclass(frozen=True)
class KeptStates:
    """A teacher's states for the training and for the validation batches of a run.

    look_every: a validation reads every so many of the validation batches, spread over the text.
    judge: does what `compare_with_teacher` of a `DistillationModule` does, from logits (M, V) and
    their batch; None: the teacher itself is asked.
    """

    train: TeacherStates
    val: TeacherStates
    look_every: int = 1
    judge: Callable[[torch.Tensor, dict], tuple[torch.Tensor, ...]] | None = None


@dataclass(frozen=True)
class UnmaskedText:
    """Says that batches have unmasked texts, too, with a teacher's final states if these are kept.

    train, val: the states of all sequences of a split, in order; None where they are not kept.
    """

    train: TeacherStates | None = None
    val: TeacherStates | None = None


class WithTeacher(Dataset):
    """Batches that carry their number and the teacher's states, beside the rest.

    These are head states (M, H_T), or the final states (B, S, H_T) of unmasked texts.

    every: only every so many of the batches are among them, beginning with the first.
    """

    def __init__(self, batches: Dataset, states: TeacherStates, every: int = 1):
        self.batches, self.states, self.every = batches, states, every

    def divide(self, rank: int, processes: int) -> None:
        """Take only this process's share of each step; see `TrainBatches.divide`."""
        self.batches.divide(rank, processes)

    def __len__(self) -> int:
        return -(-len(self.batches) // self.every)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number = index * self.every
        if number >= len(self.states):  # a worker prefetches beyond the last step
            return self.batches[number]
        batch, states = self.batches[number], torch.from_numpy(self.states[number])
        added = {"number": torch.tensor(number)}
        if self.states.is_of_texts:
            return batch | added | {"text_states": states.unflatten(0, batch["texts"].shape)}
        return batch | added | {"teacher_states": states}
