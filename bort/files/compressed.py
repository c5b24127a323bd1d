"""Text files that may be compressed by gzip, xz or Zstandard, read as a stream of their text.

A stream holds one block of the text in memory, and what its format may refer back to (8 MB for xz
by default), however large the file is.
"""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO

from bort.errors import BortError

COMPRESSIONS = (".gz", ".xz", ".zst")
BLOCK = 1 << 16  # bytes of text that are unpacked at once
SAMPLE = 1 << 20  # bytes of text from which the size of the whole text is estimated


def split_suffixes(path: PurePath) -> tuple[str, str]:
    """Return what kind of text a file's name says it has, and how it is compressed.

    `a.JSONL.gz` gives `.jsonl` and `.gz`, and `a.txt` gives `.txt` and an empty text.
    """
    suffix = path.suffix.lower()
    if suffix in COMPRESSIONS:
        return PurePath(path.stem).suffix.lower(), suffix
    return suffix, ""


@contextmanager
def open_text_stream(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading the bytes of its text, which are unpacked where its name says so.

    Raises BortError within the block for a compressed file that is cut, damaged or no such file,
    and OSError for a file that cannot be read.
    """
    _, compression = split_suffixes(path)
    with path.open("rb") as file:
        if not compression:
            yield file
            return
        stream = io.BufferedReader(_unpack(file, compression, path), BLOCK)
        try:
            yield stream
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if getattr(error, "errno", None):  # of the disk, not of the content
                raise
            raise _describe_damage(path, compression, error) from error
        finally:
            stream.close()


def _unpack(file: IO[bytes], compression: str, path: Path) -> io.BufferedIOBase:
    if not file.read(1):
        raise BortError(f"{path} is empty, which no {compression} file is; get it again")
    file.seek(0)
    if compression == ".gz":
        return gzip.GzipFile(fileobj=file)
    if compression == ".xz":
        return lzma.LZMAFile(file)
    import pyarrow  # only here: it takes half a second, and Python 3.13 cannot read .zst itself

    try:
        return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")
    except NotImplementedError as error:  # of pyarrow as some systems build it
        raise BortError(
            f"{path}: pyarrow is built without Zstandard here; unpack the file by `zstd -d`"
        ) from error


def _describe_damage(path: Path, compression: str, error: Exception) -> BortError:
    if isinstance(error, EOFError) or "runcated" in str(error):  # the latter is pyarrow's word
        return BortError(f"{path} is cut: its {compression} data ends too early; get it again")
    return BortError(f"{path} is damaged, or no {compression} file at all; get it again")


def estimate_text_size(path: Path) -> int:
    """Estimate how many bytes of text a file holds, from how well its beginning is compressed.

    A plain file needs no estimate. A file that is damaged at its beginning counts as it lies there.
    """
    size = path.stat().st_size
    _, compression = split_suffixes(path)
    if not compression:
        return size
    with path.open("rb") as file:
        try:
            stream = io.BufferedReader(_unpack(file, compression, path), BLOCK)
            unpacked, packed = len(stream.read(SAMPLE)), file.tell()
        except (EOFError, zlib.error, lzma.LZMAError, OSError, BortError):
            return size  # the error is reported when the file is read
    return max(size, unpacked if unpacked < SAMPLE else round(size * unpacked / max(1, packed)))
