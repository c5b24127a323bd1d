"""The tokenizer: a byte-level BPE is trained on text, and texts are encoded on all cores.

Letters: V vocabulary.
"""

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain, groupby, islice

import numpy as np

from bort.errors import BortError

CHUNK = 4_000_000  # characters of the documents that are read and encoded together
BATCH = 1_000_000  # characters encoded at once; the tokenizer needs about 40 MB for it
PIECE = 100_000  # characters; longer documents are encoded in pieces, on all cores
WORD = 64  # characters; training a BPE on longer words takes quadratic time
CUT = re.compile(r"(?<=\S) (?=\S)")  # no token of a byte-level BPE or WordPiece crosses this place
LONG_WORD = re.compile(rf"\S{{{WORD}}}|\s{{{WORD}}}")


def train_tokenizer(texts: Iterable[str], vocab_size: int):
    """Train a lossless byte-level BPE, with RoBERTa's specials at ids 0 … 3 and `<mask>` at 4.

    The same texts give the same ids. It adds specials as RoBERTa does: `<s> x </s>` and
    `<s> a </s></s> b </s>`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # "a <mask>": the space belongs to the hidden word, as in RoBERTa
    mask = AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", mask],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (part for text in texts for part in cut_long_words(text))
    # A source may prepare all its texts before the first one. Meanwhile the threads of the trainer
    # would take the processor from it, since they spin while they wait for a text.
    texts = chain(list(islice(texts, 1)), texts)
    run_interruptibly(lambda: backend.train_from_iterator(texts, trainer))
    backend.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=mask,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def cut_long_words(text: str) -> Iterator[str]:
    """Yield the parts of a text, cut within words and spaces of more than WORD characters."""
    if " " * WORD not in text and max(map(len, text.split(" "))) <= WORD:
        yield text
        return
    start = 0
    for match in LONG_WORD.finditer(text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def run_interruptibly(work: Callable[[], object]) -> None:
    """Do long work in a daemon thread, so that signals are answered meanwhile.

    Python handles a signal only between two of its own instructions, and training a tokenizer is
    a single one.
    """
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)
    if outcome[0] is not None:
        raise outcome[0]


def build_encoder(tokenizer):
    """Copy a tokenizer's backend so that `<mask>` or `[SEP]` in a text are ordinary words to it.

    Raises BortError for a slow tokenizer, and for one without the special tokens of a masked LM.
    """
    from tokenizers import Tokenizer

    name = tokenizer.name_or_path or type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise BortError(f"tokenizer {name} has no tokenizer.json; use a fast one")
    if None in (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id):
        raise BortError(f"tokenizer {name} lacks a cls, sep or mask token; use that of a masked LM")
    # unless this is set, each loader process that is forked later prints a warning
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    encoder = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    encoder.no_padding()
    encoder.no_truncation()
    encoder.encode_special_tokens = True
    return encoder


def encode_texts(encoder, texts: list[str]) -> list[np.ndarray]:
    """Encode each text into ids (int32) without special tokens, on all cores."""
    cut = [(row, piece) for row, text in enumerate(texts) for piece in cut_pieces(text)]
    ends = accumulate(len(piece) for _, piece in cut)
    grouped = groupby(zip(cut, ends, strict=True), key=lambda item: item[1] // BATCH)
    parts: list[list] = [[] for _ in texts]
    for _, group in grouped:
        rows, batch = zip(*(piece for piece, _ in group), strict=True)
        encodings = encoder.encode_batch_fast(batch, add_special_tokens=False)
        for row, encoding in zip(rows, encodings, strict=True):
            parts[row].append(np.array(encoding.ids, dtype=np.int32))
    return [np.concatenate(part) for part in parts]


def cut_pieces(text: str) -> Iterator[str]:
    """Yield a long text in parts of PIECE to 2 · PIECE characters, cut where no token crosses."""
    start = 0
    while len(text) - start > 2 * PIECE:
        space = CUT.search(text, start + PIECE, start + 2 * PIECE)
        end = space.start() if space else start + 2 * PIECE
        yield text[start:end]
        start = end
    yield text[start:]


def hash_tokenizer(tokenizer) -> str:
    """Return a digest of everything that decides a tokenizer's ids."""
    specials = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.unk_token_id]
    return hashlib.sha256(f"{build_encoder(tokenizer).to_str()}{specials}".encode()).hexdigest()


def mark_special_ids(tokenizer) -> np.ndarray:
    """Return which ids stand for no text: (V,) bool, where V counts ids up to the largest one."""
    special = np.zeros(max(tokenizer.get_vocab().values()) + 1, dtype=bool)
    special[tokenizer.all_special_ids] = True
    return special
