"""The sources of documents: docstrings of the installed packages, or the user's text.

The user's documents are read one at a time; the docstrings are held in memory (31 MB).
"""

import ast
import gc
import importlib.metadata
import importlib.util
import os
import re
import sys
import sysconfig
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path, PurePath
from types import ModuleType
from typing import NamedTuple

from bort.config.data import DataConfig
from bort.errors import BortError, name_kind, shorten, suggest_name
from bort.files.cache import locate_cache
from bort.files.compressed import COMPRESSIONS, estimate_text_size, split_suffixes
from bort.files.digests import read_sealed, write_sealed
from bort.files.json_lines import read_json_lines
from bort.files.text_files import read_lines, read_parquet_rows, read_parquet_shape
from bort.machine import count_usable_cores
from bort.network import is_hub_reachable

# Dependencies whose distribution and import have the same name. Left out are plotly (4.7 MB, but
# lists of properties) and packages with less than 0.3 MB of long docstrings.
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
HALF = re.compile("[\ud800-\udfff]")  # half of a surrogate pair, which Python source can contain
SUFFIXES = (".txt", ".md", ".text", ".jsonl", ".parquet")
PLAIN = SUFFIXES[:-1]  # kinds that may be compressed; a parquet file compresses its columns itself
KINDS = f"{' '.join(PLAIN)} (or these as {' '.join(COMPRESSIONS)}) .parquet"


class Document(NamedTuple):
    """A text, its size in the source, and its group."""

    text: str
    size: float  # bytes of text in the source
    group: str = ""  # all documents of a group go into the same split


@dataclass
class Source:
    """A source of documents: its name, its identity, and a function that reads it."""

    name: str
    identity: dict  # everything that decides the text, for the fingerprint
    size: int  # bytes of text, estimated for compressed files; 0 if unknown
    read: Callable[[], Iterable[Document]]
    note: str = ""  # a line about the files that are not read


# ------------------------------------------------------------------------------------ docstrings


def read_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def read_docstrings(packages: list[str], tick: Callable) -> dict[str, dict[str, list[str]]]:
    """Read the docstrings of each file of each package, with one process per core."""
    files = [(name, file) for name in packages for file in list_python_files(name)]
    documents: dict[str, dict[str, list[str]]] = {name: {} for name in packages}
    tick(f"corpus: reading the docstrings of {len(packages)} packages…", now=True)
    # spawn, because a fork would break threads of torch or tokenizers that the caller may have. A
    # syntax tree has no cycles: searching it for garbage took a third of the time.
    with ProcessPoolExecutor(
        min(count_usable_cores(), 32), mp_context=get_context("spawn"), initializer=gc.disable
    ) as pool:
        with _hidden_main():
            parsed = pool.map(parse_docstrings, [file for _, file in files], chunksize=16)
        for (name, file), texts in zip(files, parsed, strict=True):
            tick(f"corpus: reading {name} ({packages.index(name) + 1} of {len(packages)})…")
            documents[name][file] = texts
    return documents


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep the processes that start in this context from running the program's own script.

    A spawned process imports the script that its parent runs. A script that calls `bort.run`
    without the guard `if __name__ == "__main__":` would start from its beginning in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def list_python_files(package: str) -> list[str]:
    """List the source files of a package in order, without its tests and without importing it."""
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


BLOCKS = (ast.stmt, ast.excepthandler, ast.match_case)  # what a statement's lists may hold


def walk_blocks(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield a module and all statements in it, in the order of `ast.walk`, without expressions.

    No expression holds a statement, so that none is left out, in a twentieth of the time.
    """
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for field in node._fields:
            if isinstance(value := getattr(node, field, None), list):
                waiting.extend(child for child in value if isinstance(child, BLOCKS))


def parse_docstrings(file: str) -> list[str]:
    """Return the cleaned docstrings of over 200 characters in a Python file, without running it.

    For `pydoc_data/topics.py`, the help texts are included. A file with syntax errors has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(Path(file).read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return []
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = [ast.get_docstring(node) for node in walk_blocks(tree) if isinstance(node, holders)]
    if Path(file).parts[-2:] == ("pydoc_data", "topics.py"):
        values = [v for node in ast.walk(tree) if isinstance(node, ast.Dict) for v in node.values]
        texts += [value.value for value in values if isinstance(value, ast.Constant)]
    texts = [text for text in texts if text and len(text) > SHORTEST]
    return [text for text in texts if text.isascii() or not HALF.search(text)]


# ------------------------------------------------------------------------------------ user's text


def open_text(data: DataConfig) -> Source:
    """Open `data.path`, which is a file, a folder or a data set of the Hugging Face hub."""
    path = Path(data.path).expanduser()
    if not path.exists():
        return _open_hub_text(data)
    files, left_out = list_text_files(path)
    identity = {
        "files": [_identify(file) for file in files],
        "sample_by": data.sample_by,
        "key": data.text,
    }
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}

    def read_files() -> Iterator[Document]:
        for file in files:
            kind, _ = split_suffixes(file)
            yield from readers.get(kind, _read_plain)(file, data)

    def read() -> Iterator[Document]:
        # only here: to estimate sizes, compressed files must be opened
        source.size = sum(estimate_text_size(file) for file in files)
        return read_files()

    source = Source(str(path), identity, 0, read, _describe_left_out(path, left_out))
    return source


def _identify(file: Path) -> tuple[str, int, int, int]:
    """Return values that change with a file's content, even if size and time are set back."""
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _describe_left_out(path: Path, left_out: list[str], most: int = 4) -> str:
    """Describe in one line the files of a folder that are not read."""
    if not left_out:
        return ""
    parts = [name.partition(" (") for name in left_out[:most]]  # a path, and perhaps a reason
    names = [f"{shorten(name, 20, keep_end=True)}{mark}{reason}" for name, mark, reason in parts]
    more = f" and {len(left_out) - most:,} more" if len(left_out) > most else ""
    return f"not read in {path.name}: {', '.join(names)}{more}; read are {KINDS}"


def list_text_files(path: Path) -> tuple[list[Path], list[str]]:
    """List the files to read, in order, and what is left out: other files, and links to folders.

    A link to a folder is followed unless that folder is read anyway, or holds the link itself. What
    is left out is named by its path below `path`.
    """
    if path.is_file():
        if not _is_text_file(path.name):
            raise BortError(f"data.path={path}: not a kind of file that is read here; use {KINDS}")
        return [path], []
    files, others, links = _walk(path, seen := set())
    left_out = []
    while links:
        link = links.pop(0)
        name = link.relative_to(path).as_posix()
        if link.resolve() in (parents := link.parent.resolve(), *parents.parents):
            left_out.append(f"{name} (a loop)")
        elif _identify_folder(link) in seen:
            left_out.append(f"{name} (read already)")
        else:
            more_files, more_others, more_links = _walk(link, seen)
            files, others, links = files + more_files, others + more_others, links + more_links
    left_out += [other.relative_to(path).as_posix() for other in others]
    if not files:
        has = f", only {sorted(left_out)[0][:40]}" if left_out else ""
        raise BortError(f"data.path={path}: no text in it{has}; put {KINDS} files there")
    files.sort(key=lambda file: file.relative_to(path).as_posix())
    return files, sorted(left_out)


def _walk(path: Path, seen: set[tuple[int, int]]) -> tuple[list[Path], list[Path], list[Path]]:
    """List the files below a folder that are read, other files, and links to folders, in order.

    seen: the folders that have been walked, which are passed over; those walked here are added.
    """

    def stop(error: OSError):  # of an unreadable folder, whose text would be missing silently
        raise error

    files, others, links = [], [], []
    for folder, folders, names in os.walk(path, onerror=stop):
        if _identify_folder(folder) in seen:
            folders.clear()
            continue
        seen.add(_identify_folder(folder))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = sorted(name for name in names if not name.startswith("."))
        files += [Path(folder, name) for name in names if _is_text_file(name)]
        others += [Path(folder, name) for name in names if not _is_text_file(name)]
        links += [Path(folder, name) for name in folders if Path(folder, name).is_symlink()]
    return files, others, links


def _is_text_file(name: str) -> bool:
    kind, compression = split_suffixes(PurePath(name))
    return kind in (PLAIN if compression else SUFFIXES)


def _identify_folder(path: str | Path) -> tuple[int, int]:
    """Return values that only one folder has, whatever links lead to it."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _read_plain(file: Path, data: DataConfig) -> Iterator[Document]:
    if data.sample_by == "line":
        yield from (Document(line.text, line.size) for line in read_lines(file))
        return
    texts, size = [], 0
    for line in read_lines(file):
        size += line.size
        if data.sample_by == "file" or line.text.strip(" \t"):
            texts.append(line.text)
        else:  # a blank line ends a paragraph
            yield Document("\n".join(texts), size)
            texts, size = [], 0
    yield Document("\n".join(texts), size)


def _read_jsonl(file: Path, data: DataConfig) -> Iterator[Document]:
    for line in read_json_lines(file, "fix or drop the line", skips_blank=True):
        yield Document(_read_text(line.record, line.where, data), line.size)


def _read_parquet(file: Path, data: DataConfig) -> Iterator[Document]:
    rows, columns = read_parquet_shape(file)
    _check_key(columns, str(file), data)
    size = file.stat().st_size / max(1, rows)
    for number, (text,) in enumerate(read_parquet_rows(file, [data.text]), start=1):
        yield Document(_read_text({data.text: text}, f"{file}, row {number}", data), size)


def _check_key(keys: Iterable[str], where: str, data: DataConfig) -> None:
    keys = list(keys)
    if data.text not in keys:
        has = ", ".join(keys) or "none"
        hint = suggest_name(data.text, keys)
        raise BortError(f"{where}: no key '{data.text}' (it has {has}); set data.text{hint}")


def _read_text(row: dict, where: str, data: DataConfig) -> str:
    _check_key(row, where, data)
    text = row[data.text]
    if not isinstance(text, str):
        kind = name_kind(type(text))
        raise BortError(f"{where}: '{data.text}' is {kind}, not text; fix or drop the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON can contain half of a surrogate pair
        raise BortError(f"{where}: '{data.text}' has half a character; fix it") from error
    return text


def _open_hub_text(data: DataConfig) -> Source:
    name, _, subset = data.path.partition(":")
    path = Path(data.path).expanduser()
    hub_name = re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) and not _is_text_file(name)
    if not hub_name or path.parent.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = (
            suggest_name(path.name, siblings)
            or "; give a file, a folder or a hub name (owner/name)"
        )
        raise BortError(f"data.path={data.path}: no such file or folder{hint}")

    revision = find_revision(name)

    def read() -> Iterator[Document]:
        if not is_hub_reachable():
            raise BortError(
                f"data.path={data.path}: no such file or folder here, and the Hugging Face hub "
                "cannot be reached; check the path or the network"
            )
        import datasets

        try:
            rows = datasets.load_dataset(
                name, subset or None, split="train", streaming=True, revision=revision
            )
        except Exception as error:  # the errors of the hub's client have no common class
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BortError(f"data.path={data.path}: the hub answers: {reason}") from error
        for number, row in enumerate(rows, start=1):
            yield Document(_read_text(row, f"{data.path}, row {number}", data), 0)

    identity = {"hub": data.path, "revision": revision, "key": data.text}
    return Source(data.path, identity, 0, read)


def find_revision(name: str) -> str | None:
    """Return the commit of a data set on the hub; without a network, the last known one or None."""
    path = locate_cache() / "hub" / f"{name.replace('/', '--')}.json"
    if not is_hub_reachable():
        return (read_sealed(path) or {}).get("revision")
    from huggingface_hub import HfApi

    try:
        revision = HfApi().dataset_info(name, timeout=10).sha
    except Exception:  # the error is reported when the data set is read
        return None
    write_sealed(path, {"revision": revision})
    return revision
