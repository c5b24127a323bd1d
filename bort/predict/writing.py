"""Where rows and their answers go: lines of csv, tsv or jsonl, or a Parquet file."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from bort.errors import BortError, shorten
from bort.export.tables import LineWriter, flatten_answer, join_cells
from bort.files.tables import translate_mistakes

BLOCK = 8192  # rows of a Parquet file that are written at once


class Sink(Protocol):
    """What takes rows with their answers, one after another."""

    def add(self, where: str, cells: dict[str, Any] | None, answer: dict) -> None:
        """Take a row; cells: None for a text that is no row of a table."""

    def finish(self) -> None:
        """Write what is left."""

    def close(self) -> None:
        """Let go of the file, which is whole only after `finish`."""


class LineSink:
    """Hands the lines of rows to a file or the screen."""

    def __init__(self, writer: LineWriter, emit: Callable[[str], Any]):
        self.writer, self.emit = writer, emit

    def add(self, where: str, cells: dict[str, Any] | None, answer: dict) -> None:
        """Write the lines of a row."""
        with translate_mistakes():
            self.emit(self.writer.write(where, cells, answer))

    def finish(self) -> None:
        """Do nothing: each row is written at once."""

    def close(self) -> None:
        """Do nothing: the file is the caller's."""


class ParquetSink:
    """Writes a Parquet file in blocks of rows.

    Columns keep the types of the Parquet file that is read; others are of the type that the first
    block has.
    """

    def __init__(self, file: IO[bytes], source: Path | None):
        """source: the Parquet file that is read, if it is one."""
        self.file, self.source, self.writer = file, source, None
        self.rows: list[dict[str, Any]] = []
        self.first = ""  # where the block begins

    def add(self, where: str, cells: dict[str, Any] | None, answer: dict) -> None:
        """Take a row, and write the block when it is complete."""
        with translate_mistakes():
            self.rows.append(join_cells(cells or {}, flatten_answer(answer), where))
        self.first = self.first or where
        if len(self.rows) == BLOCK:
            self._write_block()

    def finish(self) -> None:
        """Write the last block."""
        if self.rows:
            self._write_block()

    def close(self) -> None:
        """Write the end of the file, as long as the file is open."""
        if self.writer is not None:
            self.writer.close()

    def _write_block(self) -> None:
        """Write the rows; raises BortError for cells of another type than those before."""
        import pyarrow
        from pyarrow import parquet

        try:
            if self.writer is None:
                self.writer = parquet.ParquetWriter(self.file, self._infer_schema())
            table = pyarrow.Table.from_pylist(self.rows, self.writer.schema)
            missing = set().union(*self.rows) - set(self.writer.schema.names)
        except (pyarrow.ArrowException, TypeError) as error:
            reason = shorten(error, 60)
            raise BortError(
                f"{self.first} and on: cells of other types than before ({reason}); use "
                "out=FILE.jsonl"
            ) from None
        if missing:
            raise BortError(
                f"{self.first} and on: '{min(missing)}' is no column of the first rows; use "
                "out=FILE.jsonl"
            )
        self.writer.write_table(table)
        self.rows, self.first = [], ""

    def _infer_schema(self):
        """Return the types of the columns; what is empty in all rows of the block is text."""
        import pyarrow
        from pyarrow import parquet

        fields = dict(zip(*self._read_schema(parquet), strict=True)) if self.source else {}
        for name in dict.fromkeys(name for row in self.rows for name in row):
            if name not in fields:
                kind = pyarrow.array([row.get(name) for row in self.rows]).type
                kind = pyarrow.string() if pyarrow.types.is_null(kind) else kind
                is_list = pyarrow.types.is_list(kind) and pyarrow.types.is_null(kind.value_type)
                fields[name] = pyarrow.list_(pyarrow.string()) if is_list else kind
        return pyarrow.schema(fields.items())

    def _read_schema(self, parquet) -> tuple[list[str], list]:
        """Return the names and the types of the columns of the file that is read."""
        schema = parquet.read_schema(self.source)
        return schema.names, schema.types
