"""The teacher S of an embedding: what it makes of texts, kept on disk in half precision.

Letters: N texts, B texts of a batch, S tokens, E numbers of S's embedding.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bort.config.fingerprint import fingerprint
from bort.embeddings.datamodule import BATCH, embed_texts
from bort.embeddings.pooling import Pooling, require_pooling
from bort.embeddings.texts import make_rows
from bort.files.cache import locate_cache
from bort.finetuning.examples import hash_rows
from bort.models import hub
from bort.models.huggingface import load_tokenizer
from bort.teachers.kept_outputs import keep_in_parts
from bort.teachers.opening import open_teacher
from bort.teachers.teacher import Teacher
from bort.training.precision import LEAST_FACTOR, LEAST_HIDDEN, compute_factor, list_products
from bort.training.products import measure_speeds

logger = logging.getLogger(__name__)

VERSION = 1  # of what is kept; raise it whenever the same texts would get other embeddings


class SentenceTeacher:
    """An encoder of any family with the pooling of its folder.

    teacher: the encoder. in_bf16: whether it computes in bf16, which changes an embedding by about
    one hundredth of its length. length: tokens of a text at most.
    """

    def __init__(
        self,
        teacher: Teacher,
        tokenizer: Any,
        pooling: Pooling,
        length: int,
        device: str = "cpu",
        in_bf16: bool = False,
    ):
        self.teacher = teacher.to(device)
        self.tokenizer, self.pooling, self.device = tokenizer, pooling, device
        self.length, self.in_bf16 = length, in_bf16
        self._copy = self.teacher.copy_in_bf16() if in_bf16 else self.teacher

    def digest(self) -> str:
        """Return the digest of the encoder's files."""
        return hub.digest_model(self.pooling.folder)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Compute the embeddings (N, E) of texts in their order, in float32."""
        prepared = [self.pooling.prepare(text) for text in texts]
        return embed_texts(prepared, self.tokenizer, self.length, self._compute, self.device)

    def compute_states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the final states (B, S, H) of ids and their mask (B, S), in float32."""
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, self.in_bf16):
            return self._copy.compute_states(ids, mask).float()

    def _compute(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Compute the embeddings (B, E) of ids and their mask (B, S)."""
        return self.pooling.pool(self.compute_states(ids, mask), mask)


def open_sentence_teacher(name: str, length: int, device: str = "cpu") -> SentenceTeacher:
    """Open a folder of sentence-transformers of any family that bort.teachers can open.

    length: tokens of a text at most, where the folder allows more. Raises BortError for a folder
    that does not say how its states become an embedding, or is no encoder.
    """
    pooling = require_pooling(name, "teacher.name")
    teacher = open_teacher(pooling.folder)
    tokenizer = load_tokenizer(pooling.folder)
    limits = [length, teacher.limit, tokenizer.model_max_length, pooling.length or length]
    length = int(min(limits))
    in_bf16 = device == "cpu" and is_faster_in_bf16(teacher, length)
    return SentenceTeacher(teacher, tokenizer, pooling, length, device, in_bf16)


def is_faster_in_bf16(teacher: Teacher, length: int) -> bool:
    """Whether this machine's bf16 shortens the passes of a teacher enough to be worth its loss."""
    if teacher.arch.hidden < LEAST_HIDDEN:
        return False
    work: Counter = Counter()
    for size, count in list_products(teacher.arch, BATCH * length, 0, 0):
        work[size.shrink()] += count * size.flops
    return compute_factor(work, measure_speeds(work)) >= LEAST_FACTOR


def keep_embeddings(teacher: SentenceTeacher, texts: Sequence[str]) -> np.ndarray:
    """Return a teacher's embeddings (N, E) of texts, in half precision.

    They are computed once for the same teacher and texts, in parts, so that a run that was stopped
    resumes after the last one.
    """
    facts = {
        "teacher": teacher.digest(),
        "pooling": teacher.pooling.list_facts(),
        "length": teacher.length,
        "bf16": teacher.in_bf16,
        "texts": hash_rows({"texts": make_rows(texts)}),
        "version": VERSION,
    }
    folder = locate_cache() / "embeddings" / fingerprint(facts)
    return keep_in_parts(
        folder,
        texts,
        lambda part: teacher.embed(part).astype(np.float16),
        ("embedding", "embedded", "text"),
    )
