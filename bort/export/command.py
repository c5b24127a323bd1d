"""Answers of the model.onnx beside this file: numpy, onnxruntime and tokenizers are all it needs.

python predict.py 'a text'                    # classes with probabilities, or a number
python predict.py 'a text' 'a second text'    # of a model for pairs
python predict.py 'Paris is <mask>.'          # of a masked language model; top=10: ten words
python predict.py 'a passage' 'question option 1' 'question option 2'   # of a model for choices
python predict.py 'A [[cup]] fell. [[It]] broke.'    # of a model for two marked words
python predict.py 'a text'                    # of a model that embeds: {"embedding": [0.1, …]}
python predict.py input=new.csv out=answers.csv      # csv, tsv or jsonl, with the answers beside
python predict.py input=new.csv text=review          # which column holds the text
python predict.py input=texts.txt             # a text on each line
python predict.py - < texts.txt               # the same of the standard input
python predict.py - format=csv < new.csv > answers.csv    # or tsv, jsonl

A table's texts are in the columns that the model was trained on, or in `text` (and `pair`); its
columns stay, and the answers' begin with `answer`. Files may be compressed by gzip or xz
(new.csv.gz). threads=2 computes with two threads. An answer on the screen is a line of JSON.
In Python: `from predict import Model; Model().predict([text, …])`.
"""

import difflib
import gzip
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bort.export.rules import Text, shorten
from bort.export.standalone import Model
from bort.export.tables import (
    KINDS,
    LineWriter,
    Rows,
    answer_rows,
    choose_columns,
    get_text,
    read_rows,
    split_names,
)
from bort.files.delimited import Mistake

OPENERS = {".gz": gzip.open, ".xz": lzma.open}  # of compressed files, by the end of their names
SETTINGS = ("input", "out", "top", "threads")
OF_TABLES = ("text", "format")  # settings where there is something to read; else they are texts


def find_kind(path: Path, format: str | None) -> str:
    """Return the ending that says what is in a file, or what `-` and the screen are said to carry.

    Raises Mistake for a file of another kind.
    """
    if str(path) == "-":
        return f".{format}" if format else ".txt"
    suffix = path.suffix.lower()
    kind = Path(path.stem).suffix.lower() if suffix in (*OPENERS, ".zst") else suffix
    if kind in (".parquet", ".json", ".xlsx", ".bz2", ".zip"):
        raise Mistake(f"input={path}: save it as csv, tsv, jsonl, or a .txt with a text per line")
    if suffix == ".zst":
        raise Mistake(f"input={path}: predict.py cannot unpack it; unpack it by `zstd -d`")
    return kind if kind in KINDS else ".txt"


def read_input(path: Path) -> Iterator[str]:
    """Yield the lines of a file, or of the standard input for `-`, with one in memory at a time.

    A file may be compressed by gzip or xz. Raises Mistake, with the line, for what is no text.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise Mistake("there is no standard input; give input=FILE")
        yield from decode_lines(sys.stdin.buffer, "the standard input")
        return
    suffix = path.suffix.lower()
    try:
        with OPENERS.get(suffix, open)(path, "rb") as file:
            yield from decode_lines(file, f"input={path}")
    except EOFError:
        reason = f"is cut: its {suffix} data ends too early; get it again"
        raise Mistake(f"input={path} {reason}") from None
    except (zlib.error, lzma.LZMAError, OSError) as error:
        if reason := getattr(error, "strerror", None):  # of the disk, not of the content
            raise Mistake(f"input={path}: {reason}") from None
        raise Mistake(f"input={path} is damaged, or no {suffix} file; get it again") from None


def decode_lines(file: IO[bytes], name: str) -> Iterator[str]:
    """Yield lines of UTF-8 with their ends; only \\n ends one. Mistakes begin with `name`."""
    offset = 0
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            where = f"byte {offset + error.start} (line {number})"
            raise Mistake(f"{name} is not UTF-8 at {where}; convert the file") from None
        if "\0" in line:
            raise Mistake(
                f"{name} has a NUL byte in line {number}, as UTF-16 has; convert the file"
            )
        if not offset and not (line := line.removeprefix("\ufeff")):
            return  # a byte-order mark alone is an empty file
        offset += len(raw)
        yield line


def strip_ends(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines without their ends, \\n or \\r\\n."""
    for line in lines:
        yield line.removesuffix("\n").removesuffix("\r")


def expand_path(key: str, text: str) -> Path:
    """Return the path of a setting, with the home for ~."""
    path = Path(text)
    if text.startswith("~"):
        home = os.path.expanduser(path.parts[0])
        if not os.path.isdir(home):
            raise Mistake(f"{key}={text}: there is no home folder {home}")
        path = Path(home, *path.parts[1:])
    return path


@contextmanager
def open_output(path: Path) -> Iterator[IO[bytes]]:
    """Open a binary file that is whole or absent; a pipe or a device is written to as it is."""
    target = path.resolve()
    if target.is_dir():
        raise Mistake(f"out={path} is a folder; give the name of a file")
    device = target.exists() and not target.is_file()
    try:
        with target.open("wb") if device else replace_file(target) as file:
            yield file
    except BrokenPipeError:
        raise  # who reads the pipe has seen enough
    except OSError as error:
        raise Mistake(f"out={path} cannot be written: {error.strerror}") from None


@contextmanager
def replace_file(target: Path) -> Iterator[IO[bytes]]:
    """Open a new file, which gets the name when it is complete, and the mode of the old one."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.new")
    target.parent.mkdir(parents=True, exist_ok=True)
    file = temporary.open("xb")
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(target.stat().st_mode & 0o7777)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------ command


def parse_arguments(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the texts, and the settings among the arguments; `-` is a setting: input=-."""
    reads = any(argument == "-" or argument.startswith("input=") for argument in arguments)
    keys = "|".join(SETTINGS + OF_TABLES * reads)
    texts, settings = [], {}
    for argument in arguments:
        if re.match(rf"({keys})=", argument):
            key, _, settings[key] = argument.partition("=")
        elif argument == "-":
            settings["input"] = "-"
        elif re.fullmatch(r"--[a-z-]+", argument):
            raise Mistake(f"{argument} is not an option; --help shows what there is")
        else:
            check_name(argument, reads)
            texts.append(argument)
    if bool(texts) == ("input" in settings):
        raise Mistake("give a text, or input=FILE, or - for the standard input; --help shows more")
    for key, usual, what in (("top", "5", "words"), ("threads", "2", "threads")):
        if not settings.get(key, usual).isdecimal():
            raise Mistake(
                f"{key}={shorten(settings[key])} is no number of {what}; write {key}={usual}"
            )
    if settings.get("format", "csv") not in ("csv", "tsv", "jsonl"):
        raise Mistake(f"format={shorten(settings['format'])} is none of csv, tsv, jsonl")
    return texts, settings


def check_name(argument: str, reads: bool) -> None:
    """Raise Mistake for a text that is a misspelled setting. reads: whether a file is read.

    Beside a file no text can be meant. Else a text may be like a setting, but not nearly one.
    """
    match = re.match(r"([a-z_]+)=\S+$", argument)
    if match is None or match[1] in OF_TABLES:
        return
    names = [*SETTINGS, *OF_TABLES]
    near = difflib.get_close_matches(match[1], names, 1, 0.75)
    if reads or near:
        hint = f"did you mean {near[0]}=?" if near else f"there are {', '.join(names)}"
        raise Mistake(f"{match[1]}= is no setting; {hint}")


class Command:
    """What a command line asks for: rows or texts, their answers, and where these are written."""

    def __init__(self, texts: list[str], settings: dict[str, str]):
        self.texts, self.settings = texts, settings
        self.format, self.top = settings.get("format"), int(settings.get("top", "5"))
        self.input = None if texts else expand_path("input", settings["input"])
        self.kind = None if texts else find_kind(self.input, self.format)
        out = settings.get("out", "-")
        self.out = None if out == "-" else expand_path("out", out)
        if self.out is not None and self.format and str(self.input) != "-":
            raise Mistake(f"format={self.format} is of - and of the screen; leave it out")
        if self.out is not None and self.out.suffix.lower() == ".parquet":
            raise Mistake(f"out={self.out}: predict.py writes csv, tsv and jsonl")
        if self.input and self.out and self.input.resolve() == self.out.resolve():
            raise Mistake(f"out={self.out} is the input; give another file")

    def open_rows(self, model: Model) -> tuple[Rows, tuple[str, ...]]:
        """Open a table; return its rows, and the columns of their texts."""
        names = self.settings.get("text")
        wanted = model.columns if names is None else split_names(names)
        name = "the standard input" if str(self.input) == "-" else f"input={self.input}"
        rows = read_rows(read_input(self.input), name, self.kind, [wanted or (), ("text",)])
        return rows, choose_columns(rows.columns, wanted, name, names is not None)

    def answer(self, model: Model, encoding: str | None) -> Iterator[str]:
        """Yield the lines of the answers. Raises Mistake for what the model cannot answer."""
        kind = f".{self.format}" if self.format else ".jsonl"
        if self.out is not None:
            suffix = self.out.suffix.lower()
            kind = suffix if suffix in (".csv", ".tsv") else ".jsonl"
        if self.input is not None and model.kind == "MultipleChoice":
            raise Mistake("a model for choices takes a passage and its options as arguments")
        if self.kind in (None, ".txt"):
            writer = LineWriter(kind, encoding=encoding)
            for answer in model.answers(self.list_texts(model), self.top):
                yield writer.write("", None, answer)
            return
        rows, columns = self.open_rows(model)
        writer = LineWriter(kind, rows.separator if self.kind == ".csv" else None, encoding)
        answered = answer_rows(rows.rows, columns, lambda texts: model.answers(texts, self.top))
        for where, cells, answer in answered:
            yield writer.write(where, cells, answer)

    def list_texts(self, model: Model) -> Iterable[Text]:
        """Return the texts of the command line or of the lines of a file."""
        if self.input is not None:
            if self.settings.get("text"):
                name = self.settings["text"]
                raise Mistake(f"text={name} names a column, and the input has lines only")
            return strip_ends(read_input(self.input))
        if model.kind == "MultipleChoice":
            first, *choices = self.texts
            return [(first, choice) for choice in choices] or [first]
        return self.texts if len(self.texts) == 1 else [tuple(self.texts)]

    def check(self, model: Model) -> None:
        """Read all of a file for its mistakes; raises Mistake for one, and where it has no rows."""
        if self.input is None or not self.input.is_file():
            return
        count = 0
        if self.kind == ".txt":
            count = sum(1 for _ in read_input(self.input))
        else:
            rows, columns = self.open_rows(model)
            for where, cells in rows.rows:
                get_text(cells, columns, where)
                count += 1
        if not count:
            raise Mistake(f"input={self.input} is empty; put a text on each line, or rows")


def run(arguments: list[str]) -> None:
    """Write the answers that the command line asks for. Raises Mistake for one that is wrong."""
    if {"-h", "--help"} & set(arguments[:1]):
        print(__doc__)
        return
    texts, settings = parse_arguments(arguments)
    command = Command(texts, settings)
    model = Model(threads=int(settings.get("threads", "0")))
    if "top" in settings and model.kind != "MaskedLM":
        raise Mistake("top= is for a masked language model, which this is not; leave it out")
    command.check(model)
    if command.out is None:
        if sys.stdout is None:
            raise Mistake("there is no standard output; give out=FILE")
        for lines in command.answer(model, sys.stdout.encoding):
            print(lines, end="", flush=True)
        return
    count = 0
    with open_output(command.out) as file:
        for lines in command.answer(model, "utf-8"):
            file.write(lines.encode())
            count += 1
    print(f"{count:,} answer{'s' * (count != 1)}: {settings['out']}")


def main() -> None:
    """Run the command; a mistake is one line, with exit code 1."""
    try:
        run(sys.argv[1:])
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (Mistake, OSError) as error:
        line = " ".join(str(getattr(error, "strerror", None) or error).split())
        line = line if len(line) < 180 else f"{line[:180]}…"
        raise SystemExit(f"predict.py: {line}") from None


if __name__ == "__main__":
    main()
