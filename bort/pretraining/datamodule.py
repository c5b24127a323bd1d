"""The batches of pre-training; their masks depend only on (seed, epoch, sequence).

Letters: B batch, S sequence, M masked positions of a batch, V vocabulary.
"""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset, Subset

from bort.config.data import DataConfig
from bort.files.cache import locate_cache
from bort.models.huggingface import load_tokenizer
from bort.pretraining.corpus import Corpus, build_corpus, find_corpus
from bort.pretraining.masking import VAL_RATE, compute_row_keys, mask_tokens
from bort.teachers.states import KeptStates, UnmaskedText, WithTeacher
from bort.text.token_stream import pack_sequences, pad_documents
from bort.text.tokenizer import mark_special_ids
from bort.training.loader import ResumeSampler, make_generator, make_loader

# A validation that only looks reads every fourth of the held-out batches.
LOOK_EVERY = 4


class Sequences:
    """The sequences of one split of a corpus, which are cheap to send to a loader process.

    count: the number of sequences, which are packed or are a document each. unmasked: given where a
    batch has them as they are, too.
    """

    def __init__(
        self, corpus: Corpus, split: str, data: DataConfig, unmasked: UnmaskedText | None = None
    ):
        tokenizer = corpus.tokenizer
        self.file, self.dtype = corpus.folder / f"{split}.bin", corpus.info.dtype
        self.bos, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.mask, self.special = tokenizer.mask_token_id, mark_special_ids(tokenizer)
        self.pad = tokenizer.pad_token_id
        self.length, self.unmasked = data.length, unmasked is not None
        self.states = getattr(unmasked, split, None)
        self.kept_rows: np.ndarray | None = None  # the sequences with states; None: all of them
        self.bounds = None if data.packing else corpus.locate_documents(split)
        self.count = corpus.count_sequences(split, data) if data.packing else len(self.bounds) - 1
        self._tokens: np.ndarray | None = None

    @property
    def tokens(self) -> np.ndarray:
        """The stream of tokens, memory-mapped."""
        if self._tokens is None:  # Opened by the process that reads: pickling would copy it.
            self._tokens = np.memmap(self.file, dtype=self.dtype, mode="r")
        return self._tokens

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the sequences `rows` without masks, and where they have tokens: (B, S) int64.

        The second is None for packed sequences, which have tokens everywhere.
        """
        if self.bounds is None:
            return pack_sequences(self.tokens, rows, self.length, self.bos, self.sep), None
        special = (self.bos, self.sep, self.pad)
        return pad_documents(self.tokens, self.bounds, rows, self.length, special)

    def mask_rows(self, rows: np.ndarray, rate: float, key: int) -> dict[str, torch.Tensor]:
        """Make a batch of the sequences `rows`; the mask of a sequence depends on its number."""
        ids, present = self.read(rows)
        keys, vocab_size = compute_row_keys(key, rows), len(self.special)
        arrays = mask_tokens(ids, rate, self.special, self.mask, vocab_size, keys)
        names = ("input_ids", "positions", "labels")
        batch = {n: torch.from_numpy(array) for n, array in zip(names, arrays, strict=True)}
        if present is not None:
            batch["attention_mask"] = torch.from_numpy(present)
        if self.unmasked:
            batch |= self._to_texts(ids, present)
        if self.states is not None:
            indices = rows if self.kept_rows is None else np.searchsorted(self.kept_rows, rows)
            states = self.states.take(indices, self.length)[:, : ids.shape[1]]
            batch["text_states"] = torch.from_numpy(states)
        return batch

    def read_texts(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Make a batch of the unmasked sequences `rows`, all of which are padded to `length`."""
        ids, present = self.read(rows)
        if present is not None:
            room = ((0, 0), (0, self.length - ids.shape[1]))
            ids = np.pad(ids, room, constant_values=self.pad)
            present = np.pad(present, room)
        return self._to_texts(ids, present)

    def _to_texts(self, ids: np.ndarray, present: np.ndarray | None) -> dict[str, torch.Tensor]:
        texts = {"texts": torch.from_numpy(ids)}
        return texts if present is None else texts | {"text_mask": torch.from_numpy(present)}


class OrderedTexts(Dataset):
    """The unmasked sequences `rows` of a split, SIZE in a batch, as a teacher's states are kept."""

    SIZE = 64

    def __init__(self, sequences: Sequences, rows: np.ndarray):
        self.sequences, self.rows = sequences, rows

    def __len__(self) -> int:
        return -(-len(self.rows) // self.SIZE)

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        rows = self.rows[batch * self.SIZE : (batch + 1) * self.SIZE]
        return self.sequences.read_texts(rows)


class TrainBatches(Dataset):
    """The training batches; item `epoch · len + batch` is one whole batch.

    A batch has input_ids (B, S), positions (M,) and labels (M,), and where unmasked text is asked
    for also texts (B, S). Where sequences are padded, it has an attention_mask (B, S), and of texts
    a text_mask (B, S). Each epoch is a new permutation with new masks, and its last batch holds the
    remaining sequences. What is masked in a sequence depends only on (seed, epoch, sequence), not
    on batches or processes.
    """

    def __init__(
        self, corpus: Corpus, data: DataConfig, seed: int, unmasked: UnmaskedText | None = None
    ):
        self.sequences = Sequences(corpus, "train", data, unmasked)
        self.rate, self.batch_size, self.seed = data.mask_rate, data.batch_size, seed
        self.rank, self.processes = 0, 1
        self.epoch: tuple[int, np.ndarray, int] | None = None  # number, order, and key of its masks

    def divide(self, rank: int, processes: int) -> None:
        """Take only this process's share of each step; together the shares are one large batch."""
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return -(-self.sequences.count // (self.batch_size * self.processes))

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        number, batch = divmod(index, len(self))
        if self.epoch is None or self.epoch[0] != number:
            random = make_generator((self.seed, number), 0)
            order = random.permutation(self.sequences.count)
            self.epoch = number, order, int(random.integers(2**64, dtype=np.uint64))
        _, order, key = self.epoch
        size = self.batch_size * self.processes
        rows = order[batch * size : (batch + 1) * size]
        share = np.array_split(rows, self.processes)[self.rank]
        if len(share):
            return self.sequences.mask_rows(share, self.rate, key)
        # There are fewer sequences left than processes, but all processes must take this step.
        nothing = torch.empty(0, dtype=torch.int64)
        filler = self.sequences.mask_rows(rows[:1], self.rate, key)
        filler |= dict.fromkeys(("positions", "labels"), nothing)
        if "texts" in filler:
            filler["text_mask"] = torch.zeros_like(filler["texts"])
        return filler


class ValBatches(Dataset):
    """`data.val_sequences` sequences spread over the validation text, always with the same masks.

    A sequence's masks depend only on its number, not on the batch size or the seed.
    """

    KEY = 0x626F7274  # Not the seed of the run: all runs are scored on the same positions.

    def __init__(self, corpus: Corpus, data: DataConfig, unmasked: UnmaskedText | None = None):
        self.sequences = Sequences(corpus, "val", data, unmasked)
        count = min(data.val_sequences, self.sequences.count)
        self.chosen = np.arange(count) * self.sequences.count // max(1, count)
        self.sequences.kept_rows = self.chosen
        self.batch_size = 4 * data.batch_size  # No gradients need memory here.

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        if not 0 <= batch < len(self):
            raise IndexError(batch)  # which also ends `for batch in ValBatches(…)`
        return self.sequences.mask_rows(self._rows(batch), VAL_RATE, self.KEY)

    def _rows(self, batch: int) -> np.ndarray:
        return self.chosen[batch * self.batch_size : (batch + 1) * self.batch_size]

    def documents(self, is_of_tokens: bool = False) -> np.ndarray:
        """Return the number of the document of each masked position (N,), in batch order.

        A packed sequence may hold parts of several documents; a separator belongs to the one it
        ends. is_of_tokens: return it of each token instead; the special ones at both ends of a
        sequence belong to the document of their neighbour.
        """
        sequences, offsets = self.sequences, []  # in the stream, or of documents
        for number in range(len(self)):
            batch = self[number]
            ids, positions = batch["input_ids"], batch["positions"].numpy()
            positions = np.arange(ids.numel()) if is_of_tokens else positions
            row, column = np.divmod(positions, ids.shape[1])
            column = np.clip(column, 1, ids.shape[1] - 2)
            row = self._rows(number)[row]
            in_stream = row * (sequences.length - 2) + column - 1
            offsets.append(in_stream if sequences.bounds is None else row)
        if sequences.bounds is not None:
            return np.concatenate(offsets)
        ends = np.flatnonzero(np.asarray(sequences.tokens) == sequences.sep)
        return np.searchsorted(ends, np.concatenate(offsets))


class PackedDataModule(pl.LightningDataModule):
    """Training and validation batches of masked sequences, packed from text.

    A batch has input_ids (B, S), positions (M,) and labels (M,), all int64, and no padding; with
    `unmasked` it also has texts (B, S), the same sequences without masks. With `data.packing=False`
    a sequence is one document, and attention_mask and text_mask (B, S) are 0 at padding. The
    sequences of a step depend only on (seed, epoch, step), and the masks of a sequence only on
    (seed, epoch, sequence); neither depends on workers, processes, or where training was resumed.
    With several devices, give the trainer `use_distributed_sampler=False`, because this module
    divides the batches itself.

    data: the text, the length of a sequence, and the number of sequences in a batch. tokenizer: a
    fast transformers tokenizer (such as a teacher's), its folder, or its hub name; None uses the
    one that `data.tokenizer` names, or trains a byte-level BPE on the text. seed: decides the order
    and the masks. cache: the folder for tokenized text; None uses bort's own. corpus: text that has
    already been tokenized. states: a teacher's kept states for the batches, which are added to
    them. look_every: a validation within a training reads every so many of the validation batches,
    spread over the text; one outside of a training reads them all. unmasked: given for losses on
    unmasked text. After `setup` (which a trainer calls), `corpus`, `tokenizer` and `vocab_size`
    describe the batches, and `train` and `val` hold them.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: Any = None,
        seed: int = 0,
        *,
        cache: str | Path | None = None,
        corpus: Corpus | None = None,
        states: KeptStates | None = None,
        look_every: int = 1,
        unmasked: UnmaskedText | None = None,
    ):
        super().__init__()
        if tokenizer is None and data.tokenizer not in ("auto", "bpe"):
            tokenizer = data.tokenizer
        if isinstance(tokenizer, str | Path):
            tokenizer = load_tokenizer(tokenizer)
        self.data, self.tokenizer, self.seed, self.states = data, tokenizer, seed, states
        self.look_every = look_every
        self.cache = None if cache is None else Path(cache)
        self.corpus, self.unmasked = corpus, unmasked
        self.train: TrainBatches | WithTeacher | None = None
        self.val: ValBatches | WithTeacher | None = None

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer, which a model needs; known after `setup`."""
        return self.corpus.info.vocab_size

    def prepare_data(self) -> None:
        """Tokenize the text once for all processes and runs, and keep it in the cache.

        Raises BortError for text that is missing, unreadable or too short.
        """
        if self.corpus is None:
            build_corpus(self.data, self.cache or locate_cache(), self.tokenizer)

    def setup(self, stage: str | None = None) -> None:
        """Open the tokenized text and divide it into batches."""
        if self.train is not None:
            return
        if self.corpus is None:
            folder = self.cache or locate_cache()
            self.corpus = find_corpus(self.data, folder, self.tokenizer)
            if self.corpus is None:
                self.corpus = build_corpus(self.data, folder, self.tokenizer)
        self.tokenizer = self.corpus.tokenizer
        self.train = TrainBatches(self.corpus, self.data, self.seed, self.unmasked)
        self.val = ValBatches(self.corpus, self.data, self.unmasked)
        if self.states is not None:
            self.train = WithTeacher(self.train, self.states.train)
            self.val = WithTeacher(self.val, self.states.val, self.states.look_every)

    def train_dataloader(self) -> DataLoader:
        """Build the loader of the current epoch, which starts where the trainer stands."""
        trainer = self.trainer
        if trainer:
            self.train.divide(trainer.global_rank, trainer.world_size)
        # `processed` counts the batches trained on over all epochs, in a checkpoint saved by any
        # hook; there, `ready` may be ahead of it and `completed` behind it.
        progress = trainer.fit_loop.epoch_loop.batch_progress.total if trainer else None
        sampler = ResumeSampler(len(self.train), lambda: progress.processed if progress else 0)
        return make_loader(self.train, sampler, self.data.workers)

    def val_dataloader(self) -> DataLoader | list:
        """Build the loader of the validation batches, or return [] if no text is held out."""
        if not len(self.val):
            return []
        batches: Dataset = self.val
        is_look = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if is_look and self.look_every > 1:
            batches = Subset(self.val, range(0, len(self.val), self.look_every))
        return make_loader(batches, None, self.data.workers)
