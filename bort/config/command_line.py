"""The command lines that Hydra does not read: for each command a dataclass says what it takes.

A word of a command line is `key=value`: the key is a field of the dataclass or of another in it
(`data.train=FILE`), and the value has the field's type. A field with `FREE` as its metadata takes
the words that are no settings, such as folders. The comment behind a field, or the lines of comment
above it, is its line of `--help`; the docstring of the class stands above them all.

OmegaConf is not used: a text that a user types, as in `text='…'`, is taken letter by letter, while
OmegaConf resolves `${…}` and takes `???` for a missing value. Only the standard library is loaded,
so that a command line is read at once, and where the installation is broken too.
"""

import ast
import difflib
import functools
import inspect
import math
import textwrap
import tokenize
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from bort.console import listed
from bort.errors import BortError, suggest_name

Settings = TypeVar("Settings")
FREE = {"free words": True}  # metadata of the field that takes the words which are no settings
LONGEST_DOC = 100  # columns of --help


def explained(mistake: str) -> dict[str, str]:
    """Metadata of a field whose values of a wrong type are refused in these words."""
    return {"mistake": mistake}


@dataclass(frozen=True)
class Setting:
    """What a command line may set: a key with the names of the tables that it is in."""

    key: str
    owner: type  # the dataclass that has the field
    field: Field
    kind: type  # of its value; of an optional one without None

    @property
    def is_free(self) -> bool:
        """Whether it takes the words that are no settings."""
        return self.field.metadata == FREE

    @property
    def doc(self) -> str:
        """The comment that explains it."""
        return read_comments(self.owner).get(self.field.name, "")

    @property
    def usage(self) -> str:
        """The key as help shows it, with its default where there is one."""
        if self.is_free:
            return f"{self.key.upper()} …" if self.kind is list else self.key.upper()
        default, factory = self.field.default, self.field.default_factory
        value = default if factory is MISSING else factory()
        if value is None or value is MISSING:
            return f"{self.key}=…"
        return f"{self.key}={_to_word(value)}"


def list_settings(schema: type, prefix: str = "") -> Iterator[Setting]:
    """Yield all settings of a dataclass, those of the dataclasses in it included."""
    types = get_type_hints(schema)
    for field in fields(schema):
        kind = types[field.name]
        if isinstance(kind, UnionType):
            kind = next(part for part in get_args(kind) if part is not type(None))
        kind = getattr(kind, "__origin__", kind)  # the list of list[str]
        if is_dataclass(kind):
            yield from list_settings(kind, f"{prefix}{field.name}.")
            continue
        yield Setting(f"{prefix}{field.name}", schema, field, kind)


@functools.cache
def read_comments(schema: type) -> dict[str, str]:
    """Return the comment that explains each field of a dataclass, as it stands in the source."""
    comments: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if is_dataclass(owner):
            comments |= _comments_in(_read_source(owner))
    return comments


def _read_source(owner: type) -> str:
    """Return the source of a class.

    `bort NAME` runs a module under the name of its own, `__main__`, where inspect does not find the
    class; the file of one of its methods has it all the same.
    """
    try:
        return textwrap.dedent(inspect.getsource(owner))
    except OSError:
        codes = (value.__code__ for value in vars(owner).values() if inspect.isfunction(value))
        path = next(Path(code.co_filename) for code in codes if Path(code.co_filename).is_file())
        text = path.read_text(encoding="utf-8")
        classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
        return ast.get_source_segment(
            text, next(node for node in classes if node.name == owner.__name__)
        )


def _comments_in(source: str) -> dict[str, str]:
    """The comments of one class, without the fields that it inherits."""
    lines = source.splitlines()
    texts = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    comments = {}
    for statement in ast.parse(source).body[0].body:
        if not isinstance(statement, ast.AnnAssign):
            continue
        above, number = [], statement.lineno - 1
        while number in texts and lines[number - 1].lstrip().startswith("#"):
            above.insert(0, texts[number])
            number -= 1
        behind = [texts[statement.end_lineno]] if statement.end_lineno in texts else []
        comments[statement.target.id] = " ".join(behind or above)
    return comments


def format_help(schema: type) -> str:
    """Return what `--help` prints: the docstring of the class, then a line for each setting."""
    settings = list(list_settings(schema))
    width = min(24, max((len(setting.usage) for setting in settings), default=0))
    lines = [inspect.getdoc(schema)]
    for number, setting in enumerate(settings):
        head = f"  {setting.usage:<{width}}  "
        if len(head) > width + 4:  # the key and its default are long: the text begins below them
            head = f"{head.rstrip()}\n{'':{width + 4}}"
        text = textwrap.wrap(setting.doc, LONGEST_DOC - width - 4)
        lines += [""] * (number == 0) + [head + f"\n{'':{width + 4}}".join(text)]
    return "\n".join(line.rstrip() for line in lines)


def asks_for_help(words: Iterable[str]) -> bool:
    """Say whether a command line asks what it may say."""
    return not {"--help", "-h"}.isdisjoint(words)


def parse_command(schema: type[Settings], words: Sequence[str]) -> Settings:
    """Return the settings that the words of a command line ask for.

    Raises BortError for a word that is no setting, a value of a wrong type, and whatever the
    dataclass itself refuses when it is made.
    """
    settings = {setting.key: setting for setting in list_settings(schema)}
    texts, free = _sort_words(schema, settings, words)
    values = {key: _to_value(settings[key], text) for key, text in texts.items()}
    return _build(schema, values | free)


def _build(schema: type[Settings], values: dict[str, Any], prefix: str = "") -> Settings:
    """Make a dataclass of the values with full keys; the dataclasses in it are made of theirs."""
    types, arguments = get_type_hints(schema), {}
    for field in fields(schema):
        key = f"{prefix}{field.name}"
        if is_dataclass(types[field.name]):
            arguments[field.name] = _build(types[field.name], values, f"{key}.")
        elif key in values:
            arguments[field.name] = values[key]
    return schema(**arguments)


def _sort_words(
    schema: type, settings: dict[str, Setting], words: Sequence[str]
) -> tuple[dict[str, str], dict[str, str | list[str]]]:
    """Return the texts of the settings by their keys, and the free words by theirs."""
    texts: dict[str, str] = {}
    free_words: list[str] = []
    free = next((setting for setting in settings.values() if setting.is_free), None)
    keys = [key for key, setting in settings.items() if setting is not free]
    for word in words:
        key, sign, text = word.partition("=")
        takes_free = free is not None and (free.kind is list or not free_words)
        if not settings:
            raise BortError(f"takes no arguments, got {word!r}; leave it out")
        if takes_free and (not sign or Path(word).exists()):
            free_words.append(word)
        elif not sign:
            raise BortError(f"{word} is not key=value; text with spaces is quoted: text='a b'")
        elif key in getattr(schema, "ELSEWHERE", {}):
            raise BortError(f"{word} {schema.ELSEWHERE[key]}")
        elif key not in keys:
            raise BortError(
                f"{word} is not a setting{suggest_name(key, keys)}; use {listed(keys, 120)}"
            )
        else:
            texts[key] = text
    if not free_words:
        return texts, {}
    return texts, {free.key: free_words if free.kind is list else free_words[0]}


def check_options(schema: type, words: Sequence[str]) -> None:
    """Raise BortError for a word with dashes: these commands have no options but `--help`."""
    keys: dict[str, str] = {}
    for setting in list_settings(schema):
        keys.setdefault(setting.field.name, setting.key)
    for number, word in enumerate(words, start=1):
        if word.startswith("-") and keys:
            raise BortError(refuse_option(word, words[number:], keys))


def refuse_option(option: str, after: Sequence[str], keys: dict[str, str]) -> str:
    """Return the line about a word with dashes, with the setting that was meant by it.

    after: the words behind the option, of which the first may be its value. keys: the names that
    settings may be called by, and their full keys.
    """
    word, sign, value = option.lstrip("-").replace("--", "").partition("=")
    if not sign and after and not after[0].startswith("-") and "=" not in after[0]:
        sign, value = "=", after[0]
    name = word.replace("-", "_")
    ends = [key for key in keys if key.endswith(f"_{name}")]
    close = [name] if name in keys else ends or difflib.get_close_matches(name, keys, 1, 0.6)
    meant = f"{keys[close[0]] if close else word}{sign}{value}"
    return f"{option} is not an option; settings are written without dashes: {meant}"


def _to_value(setting: Setting, text: str) -> Any:
    """Convert the text of a setting to its type; raises BortError where that is impossible."""
    if setting.kind is bool:
        if text.lower() not in ("true", "false"):
            raise BortError(f"{setting.key}={text} must be true or false")
        return text.lower() == "true"
    if setting.kind not in (int, float):
        return text
    if not text:
        raise BortError(f"{setting.key}= has no value; give one, or leave it out")
    try:
        value = setting.kind(text)
    except ValueError:
        usual = "must be a whole number" if setting.kind is int else "is not a number"
        raise BortError(
            f"{setting.key}={text} {setting.field.metadata.get('mistake', usual)}"
        ) from None
    if not math.isfinite(value):
        raise BortError(f"{setting.key}={text} is no finite number; give one")
    return value


def _to_word(value: Any) -> str:
    """Return a default as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
