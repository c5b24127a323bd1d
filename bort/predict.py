"""`python -m bort.predict`: the answers of a saved model, on the screen or in a file."""

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bort import shell
from bort.config.command_line import explained
from bort.console import counted
from bort.errors import BortError
from bort.files.compressed import open_text_stream, split_suffixes
from bort.files.locks import check_unread, lock_output
from bort.files.writing import expand_user_path, is_stream, open_output

if TYPE_CHECKING:
    from bort.export.standalone import Text

logger = logging.getLogger("bort.predict")

NO_NUMBER_OF_WORDS = "is no number of words; write top=5"


@dataclass
class PredictConfig:
    """Answers of a saved model.

    python -m bort.predict model=FOLDER text='one text'
    python -m bort.predict model=FOLDER text='first text' pair='second text'
    python -m bort.predict model=FOLDER input=texts.txt out=answers.jsonl

    A fine-tuned folder gives classes with probabilities, or a number; a masked language model
    fills <mask>.
    """

    model: str | None = None  # a run folder, a Hugging Face folder or a hub name
    text: str | None = None  # the text to answer
    pair: str | None = None  # a second text, which belongs to the first
    # instead of text=: a .txt file with a text on each line, or a .jsonl file with
    # {"text": …, "pair": …} on each line; either may be compressed (.gz, .xz, .zst)
    input: str | None = None
    out: str | None = None  # the file that the answers are written to, one on each line
    # how many words are given for a mask; 5 unless another number is given
    top: int | None = field(default=None, metadata=explained(NO_NUMBER_OF_WORDS))

    def __post_init__(self) -> None:
        if not self.model or (self.text is None) == (not self.input):
            raise BortError(
                "give model=FOLDER and either text='…' or input=FILE; --help shows more"
            )
        if self.top is not None and self.top < 1:
            raise BortError(f"top={self.top} {NO_NUMBER_OF_WORDS}")
        if self.text is None and self.pair is not None:
            raise BortError('pair= is for text=; a file has {"text": …, "pair": …} on each line')


def main(settings: PredictConfig) -> None:
    """Write an answer to each text, to the screen or to out=FILE."""
    if sys.stdout is None and not settings.out:  # closed, as by >&-
        raise BortError("there is no standard output; give out=FILE")
    texts = read_input(settings)
    if not settings.out:
        for line in answer_lines(settings, texts, sys.stdout.encoding):
            print(line, flush=True)
        return
    count, out = 0, expand_user_path("out", settings.out)
    check_unread(out, {"input": settings.input, "model": settings.model})
    with (
        lock_output(out),
        open_output(out) as file,
    ):  # first: a path that cannot be written shows at once
        for line in answer_lines(settings, texts, "utf-8"):
            file.write(f"{line}\n".encode())
            count += 1
    if not is_stream(out):
        logger.info(f"{counted(count, 'answer')}: {settings.out}")


def read_input(settings: PredictConfig) -> Iterable["Text"]:
    """Return the texts, or pairs of texts; raises BortError for a file that cannot be read."""
    if settings.text is not None:
        return [settings.text if settings.pair is None else (settings.text, settings.pair)]
    path = expand_user_path("input", settings.input)
    if path.is_file() and not any(True for _ in read_texts(path)):  # all of it, for its mistakes
        raise BortError(f"input={path} is empty; put a text on each line")
    return read_texts(path)


def read_texts(path: Path) -> Iterator["Text"]:
    """Yield a text for each line of a .txt file, or `text` (and `pair`) of each line of a .jsonl.

    Either may be compressed, as in `texts.jsonl.gz`. Raises BortError, with the line, for what
    cannot be read so.
    """
    from bort.export import standalone

    kind, compression = split_suffixes(path)
    try:
        if not compression or kind in standalone.TABLES:
            yield from standalone.read_texts(path)
        else:
            with open_text_stream(path) as file:
                yield from standalone.parse_texts(file, f"input={path}", kind == ".jsonl")
    except OSError as error:  # of a compressed file
        raise BortError(f"input={path}: {error.strerror}") from None
    except standalone.Mistake as error:
        table = kind in (".csv", ".tsv", ".parquet")
        hint = "; train.py task=custom data.test=FILE answers tables" if table else ""
        raise BortError(f"{error}{hint}") from None


def answer_lines(
    settings: PredictConfig, texts: Iterable["Text"], encoding: str | None
) -> Iterator[str]:
    """Load the model and yield its answers as lines of JSON that the encoding can show."""
    with shell.loading(shell.program()):  # torch, only now
        from bort.export.standalone import to_json_line
        from bort.predictor import load

    predictor = load(settings.model)
    if settings.top is not None and not predictor.fills_masks:
        raise BortError("top= is for a masked language model, which this is not; leave it out")
    for answer in predictor.answers(texts, top=settings.top or 5):
        yield to_json_line(answer, encoding)


if __name__ == "__main__":
    shell.run_command(PredictConfig, main, "bort.predict")
