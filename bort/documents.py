"""Where documents come from: docstrings of the installed packages, or the user's text.

Each source streams: memory holds one document, of the docstrings all (31 MB).
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bort.config import Data
from bort.doctor import hub_reachable
from bort.errors import BortError, nearest
from bort.machine import usable_cores

# Dependencies by the name that is both their distribution's and their import's. Left out: plotly
# (4.7 MB, but lists of properties) and packages with less than 0.3 MB of long docstrings.
PACKAGES = (
    "datasets",
    "huggingface_hub",
    "lightning",
    "mpmath",
    "networkx",
    "numpy",
    "pandas",
    "scipy",
    "sympy",
    "torch",
    "torchmetrics",
    "transformers",
)
SHORTEST = 200  # characters; shorter docstrings mostly repeat a signature in words
SUFFIXES = (".txt", ".md", ".text", ".jsonl", ".parquet")


class Document(NamedTuple):
    """A text and where it stood."""

    text: str
    size: int  # bytes that it takes in the source
    group: str = ""  # documents of one group go together into training or validation


@dataclass
class Source:
    """Where documents come from."""

    name: str
    identity: dict  # all that decides the text, for the fingerprint
    size: int  # bytes, 0 while unknown
    read: Callable[[], Iterable[Document]]


# ------------------------------------------------------------------------------------ docstrings


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed, for the name of what is made from them."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def docstrings_of(packages: list[str], tick: Callable) -> dict[str, dict[str, list[str]]]:
    """The docstrings of each file of each package, parsed by one process per core."""
    files = [(name, file) for name in packages for file in python_files(name)]
    documents: dict[str, dict[str, list[str]]] = {name: {} for name in packages}
    tick(f"corpus: reading the docstrings of {len(packages)} packages…", now=True)
    # spawn: the caller may hold threads of torch or tokenizers, which a fork would break
    with ProcessPoolExecutor(min(usable_cores(), 32), mp_context=get_context("spawn")) as pool:
        parsed = pool.map(docstrings, [file for _, file in files], chunksize=16)
        for (name, file), found in zip(files, parsed, strict=True):
            tick(f"corpus: reading {name} ({packages.index(name) + 1} of {len(packages)})…")
            documents[name][file] = found
    return documents


def python_files(package: str) -> list[str]:
    """The package's source files in order, tests left out; found without importing it."""
    if package == "python":
        roots = [sysconfig.get_path("stdlib")]
    else:
        spec = importlib.util.find_spec(package)
        roots = list(spec.submodule_search_locations or []) if spec else []
    skipped = {"test", "tests", "testing", "site-packages", "dist-packages", "__pycache__"}
    files = []
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(set(folders) - skipped)
            files += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
    return files


def docstrings(file: str) -> list[str]:
    """Cleaned docstrings over 200 characters of one Python file, which is parsed and never run.

    Of `pydoc_data/topics.py` the help texts too. A file that does not parse gives none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, holders)]
    if Path(file).parts[-2:] == ("pydoc_data", "topics.py"):
        values = [v for node in ast.walk(tree) if isinstance(node, ast.Dict) for v in node.values]
        texts += [value.value for value in values if isinstance(value, ast.Constant)]
    return [text for text in texts if text and len(text) > SHORTEST]


# ------------------------------------------------------------------------------------ user's text


def text_source(data: Data) -> Source:
    """The documents of `data.path`: a file, a folder or a data set of the Hugging Face hub."""
    path = Path(data.path).expanduser()
    if not path.exists():
        return _hub_source(data)
    files = _text_files(path)
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = {"files": stats, "sample_by": data.sample_by, "key": data.text}
    readers = {".jsonl": _jsonl, ".parquet": _parquet}

    def read() -> Iterator[Document]:
        for file in files:
            yield from readers.get(file.suffix.lower(), _plain)(file, data)

    return Source(str(path), identity, sum(size for _, size, _ in stats), read)


def _text_files(path: Path) -> list[Path]:
    def stop(error: OSError):  # a folder that cannot be entered: text would be missing silently
        raise error

    kinds = ", ".join(SUFFIXES)
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise BortError(f"data.path={path}: not a kind of file that is read here; use {kinds}")
        return [path]
    files = []
    for folder, folders, names in os.walk(path, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in names if not name.startswith(".")]
        files += [Path(folder, name) for name in names if name.lower().endswith(SUFFIXES)]
    if not files:
        raise BortError(f"data.path={path}: no text in it; put {kinds} files there")
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


def _lines(file: Path) -> Iterator[tuple[str, int]]:
    """Lines and their bytes. Only \\n and \\r\\n end one; str.splitlines cuts at eight more."""
    offset = 0
    with file.open("rb") as stream:
        for raw in stream:
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                where = offset + error.start
                raise BortError(f"{file}: not UTF-8 at byte {where}; convert the file") from error
            if not offset:
                line = line.removeprefix("\ufeff")  # a byte-order mark belongs to no text
            offset += len(raw)
            yield line[:-2] if line.endswith("\r\n") else line.removesuffix("\n"), len(raw)


def _plain(file: Path, data: Data) -> Iterator[Document]:
    if data.sample_by == "line":
        yield from (Document(line, size) for line, size in _lines(file))
        return
    lines, size = [], 0
    for line, raw in _lines(file):
        size += raw
        if data.sample_by == "file" or line.strip(" \t"):
            lines.append(line)
        else:  # a blank line ends a paragraph
            yield Document("\n".join(lines), size)
            lines, size = [], 0
    yield Document("\n".join(lines), size)


def _jsonl(file: Path, data: Data) -> Iterator[Document]:
    for number, (line, size) in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BortError(f"{where}: not JSON ({error}); mend or drop the line") from error
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise BortError(f"{where}: a {kind}, not an object {{…}}; mend or drop the line")
        yield Document(_text(row, where, data), size)


def _parquet(file: Path, data: Data) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        raise BortError(f"{file}: not a whole parquet file; make it again") from error
    _check_key(table.schema_arrow.names, str(file), data)
    size = file.stat().st_size / max(1, table.metadata.num_rows)
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=[data.text]):
        for row in batch.to_pylist():
            number += 1
            yield Document(_text(row, f"{file}, row {number}", data), size)


def _check_key(known: Iterable[str], where: str, data: Data) -> None:
    known = list(known)
    if data.text not in known:
        has = ", ".join(known) or "none"
        hint = nearest(data.text, known)
        raise BortError(f"{where}: no key '{data.text}' (it has {has}); set data.text{hint}")


def _text(row: dict, where: str, data: Data) -> str:
    _check_key(row, where, data)
    text = row[data.text]
    if not isinstance(text, str):
        kind = "null" if text is None else f"a {type(text).__name__}"
        raise BortError(f"{where}: '{data.text}' is {kind}, not text; mend or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise BortError(f"{where}: '{data.text}' has half a character; mend it") from error
    return text


def _hub_source(data: Data) -> Source:
    name, _, subset = data.path.partition(":")
    path = Path(data.path).expanduser()
    hub_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not name.lower().endswith(SUFFIXES)
    if not hub_name or path.parent.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, siblings) or "; give a file, a folder or a hub name (owner/name)"
        raise BortError(f"data.path={data.path}: no such file or folder{hint}")

    def read() -> Iterator[Document]:
        if not hub_reachable():
            raise BortError(
                f"data.path={data.path}: no such file or folder here, and the Hugging Face hub "
                "cannot be reached; check the path or the network"
            )
        import datasets

        try:
            rows = datasets.load_dataset(name, subset or None, split="train", streaming=True)
        except Exception as error:  # the hub's client has no common class for its refusals
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BortError(f"data.path={data.path}: the hub answers: {reason}") from error
        for number, row in enumerate(rows, start=1):
            yield Document(_text(row, f"{data.path}, row {number}", data), 0)

    return Source(data.path, {"hub": data.path, "key": data.text}, 0, read)
