"""Typed settings of `python -m bort.predict`. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path

from bort.config.command_line import explained
from bort.errors import BortError, check_choice
from bort.export.tables import split_names
from bort.files.compressed import split_suffixes
from bort.files.writing import expand_user_path

NO_NUMBER_OF_WORDS = "is no number of words; write top=5"
SCREEN = "-"  # the standard input, or the standard output
STANDARD_INPUT = Path("/dev/stdin")
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
FORMATS = ("csv", "tsv", "jsonl")
ARCHIVES = (".json", ".xlsx", ".bz2", ".zip")  # which no reader here opens
# which no writer here writes, though lines of JSON go into a file of any other name
UNWRITTEN = (".xls", ".xlsx", ".ods", ".zip", ".gz", ".xz", ".bz2", ".zst")


@dataclass
class PredictConfig:
    """Answers of a saved model.

    python -m bort.predict model=FOLDER text='one text'
    python -m bort.predict model=FOLDER text='first text' pair='second text'
    python -m bort.predict model=FOLDER input=new.csv out=answers.csv
    python -m bort.predict model=FOLDER input=new.csv text=review out=answers.jsonl
    python -m bort.predict model=FOLDER input=labelled.csv score=true
    … input=- format=csv < new.csv > answers.csv

    A fine-tuned folder gives classes with probabilities, or a number; a masked language model
    fills <mask>. A table's rows keep their columns, and those of the answers begin with `answer`.
    """

    model: str | None = None  # a run folder, a Hugging Face folder or a hub name
    # the text to answer; with input= the column of a table that holds it, or two as [a,b], where it
    # is not the one that the model was trained on, nor `text` (and `pair`)
    text: str | None = None
    pair: str | None = None  # a second text, which belongs to the first
    # instead of a text: a csv, tsv, jsonl or parquet file, or another with a text on each line; all
    # but parquet may be compressed (.gz, .xz, .zst); - is the standard input
    input: str | None = None
    # the file that the answers are written to: csv, tsv, parquet, or else lines of JSON
    out: str | None = None
    format: str | None = None  # csv, tsv or jsonl: what - and the screen carry
    score: bool = False  # whether the answers are scored, by the labels in the table
    label: str | None = None  # the column with the labels, where it is not that of the training
    dry_run: bool = False  # whether all is checked and counted, and nothing answered
    # how many words are given for a mask; 5 unless another number is given
    top: int | None = field(default=None, metadata=explained(NO_NUMBER_OF_WORDS))

    def __post_init__(self) -> None:
        if not self.model or (self.text is None and not self.input):
            raise BortError(
                "give model=FOLDER and either text='…' or input=FILE; --help shows more"
            )
        if self.top is not None and self.top < 1:
            raise BortError(f"top={self.top} {NO_NUMBER_OF_WORDS}")
        if self.input and self.pair is not None:
            raise BortError("pair= is for a text; two columns of a table are text=[a,b]")
        if self.format is not None:
            check_choice("format", self.format, FORMATS)
        if self.format and self.out_path and self.input != SCREEN:
            raise BortError(f"format={self.format} is of - and of the screen; leave it out")
        if self.out_path is not None and self.out_path.suffix.lower() in UNWRITTEN:
            raise BortError(
                f"out={self.out}: answers are written as csv, tsv, parquet or jsonl; name it so"
            )
        self._check_tables()

    def _check_tables(self) -> None:
        """Raise BortError for a setting that is for tables where none is read."""
        is_table = self.kind in TABLES
        if self.label is not None and not self.score:
            raise BortError(f"label={self.label} is read with score=true; add it")
        if self.score and not is_table:
            raise BortError("score=true needs input= of a table with labels, such as input=a.csv")
        if self.input and self.text is not None and not is_table:
            raise BortError(
                f"text={self.text} names a column, and input={self.input} has lines only; leave "
                "one of them out, or say format=csv of -"
            )

    @property
    def kind(self) -> str | None:
        """The ending that says what input= is: that of a table, or .txt; None without input=."""
        if not self.input:
            return None
        if self.input == SCREEN:
            return f".{self.format}" if self.format else ".txt"
        kind, compression = split_suffixes(Path(self.input))
        if kind in ARCHIVES or (compression and kind == ".parquet"):
            raise BortError(
                f"input={self.input}: save it as csv, tsv, jsonl, or a .txt with a text per line"
            )
        return kind if kind in TABLES else ".txt"

    @property
    def input_path(self) -> Path:
        """What is read, with the user's home for ~."""
        is_screen = self.input == SCREEN
        return STANDARD_INPUT if is_screen else expand_user_path("input", self.input)

    @property
    def out_path(self) -> Path | None:
        """The file to write; None for the screen."""
        return None if self.out in (None, "", SCREEN) else expand_user_path("out", self.out)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns of a table that text= names; None where it names none."""
        return split_names(self.text) if self.input and self.text is not None else None
