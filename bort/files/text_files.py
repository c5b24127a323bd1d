"""Readers of text and Parquet files that hold one line, or a few rows, in memory at a time."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bort.errors import BortError
from bort.files.compressed import open_text_stream

HEAD = 512  # bytes of a file that show what it is
BATCH = 8_000_000  # bytes of Parquet rows read at once
ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


class Line(NamedTuple):
    """A line of a file."""

    text: str
    number: int  # from 1
    size: int  # bytes of text, its end included


def read_lines(path: Path) -> Iterator[Line]:
    """Yield lines as `read_raw_lines` does, without their ends."""
    for text, number, size in read_raw_lines(path):
        text = text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
        yield Line(text, number, size)


def read_raw_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a UTF-8 file with their ends.

    Only \\n ends a line; str.splitlines cuts at nine more letters. A byte-order mark is dropped.
    The file may be compressed (`.gz`, `.xz`, `.zst`); bytes are then those of the unpacked text.
    Raises BortError for another encoding, naming byte and line, and for a file that is cut.
    """
    offset = 0
    with open_text_stream(path) as stream:
        check_encoding(stream.peek(HEAD)[:HEAD], path)
        for number, raw in enumerate(stream, start=1):
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise describe_undecodable(path, offset + error.start, number) from error
            yield Line(text if offset else text.removeprefix("\ufeff"), number, len(raw))
            offset += len(raw)


# Of zip (xlsx and ods are zips), gzip, bzip2, xz, zstd, 7z, old Office files, PDF, parquet, ELF.
ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zX", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf")
ARCHIVES += (b"\xd0\xcf\x11\xe0", b"%PDF", b"PAR1", b"\x7fELF", b"\x89PNG", b"\xff\xd8\xff")


def check_encoding(head: bytes, path: Path) -> None:
    """Raise BortError when the first bytes of a file are of UTF-16, of UTF-32, or of no text."""
    name = next((name for mark, name in ENCODINGS.items() if head.startswith(mark)), None)
    if name is None and len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        # without a mark: each second byte of plain letters is 0, and the others are not
        if not (any(head[:4:2]) and any(head[1:4:2])):
            name = "UTF-16"
    if name:
        raise BortError(f"{path}: {name}, not UTF-8; convert the file (iconv -f {name} -t UTF-8)")
    if any(head.startswith(mark) for mark in ARCHIVES) or _is_binary(head):
        raise BortError(
            f"{path} is not text (a spreadsheet or an archive?); save it as csv or text"
        )


def _is_binary(head: bytes) -> bool:
    """Whether bytes are no UTF-8 and hold control characters, which no encoding of text has."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a letter may be cut at the end
    except UnicodeDecodeError:
        return any(byte < 32 and byte not in b"\t\n\v\f\r\x1a\x1b" for byte in head)
    return False


def describe_undecodable(path: Path, offset: int, line: int) -> BortError:
    """Return the error for a byte that is no UTF-8; bytes count from 0, lines from 1."""
    return BortError(f"{path}: not UTF-8 at byte {offset}; convert the file (line {line})")


def read_parquet_shape(path: Path) -> tuple[int, list[str]]:
    """Return the number of rows and the names of the columns.

    Raises BortError for a file that is not whole.
    """
    table = _open_parquet(path)
    return table.metadata.num_rows, list(table.schema_arrow.names)


def read_parquet_rows(path: Path, columns: list[str]) -> Iterator[tuple]:
    """Yield the cells of these columns, row by row; equal texts of a batch are one object.

    Raises BortError for a damaged file, and for the row whose text is not UTF-8.
    """
    import pyarrow

    schema = _open_parquet(path).schema_arrow
    # read as places in a table of the different ones
    texts = [name for name in columns if pyarrow.types.is_string(schema.field(name).type)]
    table = _open_parquet(path, read_dictionary=texts)
    groups = (table.metadata.row_group(k) for k in range(table.metadata.num_row_groups))
    size = sum(group.total_byte_size for group in groups) / max(1, table.metadata.num_rows)
    batch_size = int(min(1024, max(1, BATCH // max(1, size))))
    number = 0
    try:
        for batch in table.iter_batches(batch_size=batch_size, columns=columns):
            cells = [_read_cells(batch.column(name), path, number) for name in columns]
            yield from zip(*cells, strict=True)
            number += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        raise BortError(f"{path}: damaged after row {number:,}; make it again") from error


def _open_parquet(path: Path, **options):
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, **options)
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the content
            raise
        raise BortError(f"{path}: not a whole parquet file; make it again") from error


def _read_cells(column, path: Path, before: int) -> list:
    """Return the Python values of a column of a batch; before: the rows of the file before it."""
    import pyarrow

    try:
        if pyarrow.types.is_dictionary(column.type):
            values = column.dictionary.to_pylist()
            return [None if k is None else values[k] for k in column.indices.to_pylist()]
        return column.to_pylist()
    except UnicodeDecodeError:
        for row, cell in enumerate(column):
            try:
                cell.as_py()
            except UnicodeDecodeError as error:
                raise BortError(
                    f"{path}, row {before + row + 1}: {error.object[:20]!r} is not UTF-8; "
                    "fix or drop the row"
                ) from error
        raise


def read_whole_text(path: Path) -> str:
    """Read the whole text of a file, without a byte-order mark."""
    content = path.read_bytes()
    check_encoding(content[:HEAD], path)
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise describe_undecodable(path, error.start, line) from error
    if not text:
        raise BortError(f"{path} is empty; give a file with rows")
    line = text.count("\n", 0, max(0, text.find("\0"))) + 1
    check_no_nul(text, f"{path}, line {line}")
    return text


def check_no_nul(text: str, where: str) -> None:
    """Raise BortError, which begins with `where`, for a text with a NUL byte."""
    if "\0" in text:
        raise BortError(f"{where}: a NUL byte, the file is damaged; get it again")
