"""Readers of JSON and YAML that anybody may have written; they return plain data.

Nothing in a file is resolved, expanded or built: an interpolation such as `${oc.env:TOKEN}` stays
the text that it is, and no alias makes a small file large. Every failure is one line.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from bort.errors import BortError, name_kind, shorten

LARGEST_JSON = 200_000_000  # bytes; a tokenizer of 250,000 words takes 17 MB
LARGEST_YAML = 500_000  # bytes; the settings of a run take 5 kB
DEEPEST_YAML = 20  # lists and tables inside each other


def parse_json(text: str) -> Any:
    """Return what json.loads returns; raise ValueError also for text with too deep a nesting."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, advice: str = "fetch it again") -> dict[str, Any]:
    """Read the object in a file; raise BortError when there is no such file or it holds none.

    advice: what to do about a damaged file.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise BortError(f"{path} has more than {LARGEST_JSON:,} bytes; it is no settings file")
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BortError(f"{path} does not exist; give the folder of a model") from None
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        reason = shorten(error)
        raise BortError(f"{path} is not valid JSON ({reason}); {advice}") from None
    if not isinstance(content, dict):
        raise BortError(f"{path} does not hold a JSON object; {advice}")
    return content


class _PlainLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """PyYAML's safe loader, which also refuses a key that stands twice in a table."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(names)) < len(names):
            raise yaml.constructor.ConstructorError(None, None, "a key stands there twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a YAML file: lists, tables, texts and numbers, with nothing resolved.

    Raises BortError when the file cannot be read, is large, is deeply nested, or has aliases.
    """
    try:
        if path.stat().st_size > LARGEST_YAML:
            raise BortError(f"{path} has more than {LARGEST_YAML:,} bytes; it is no settings file")
        text = path.read_text(encoding="utf-8")
        _check_events(path, text)
        return yaml.load(text, Loader=_PlainLoader)
    except OSError as error:
        raise BortError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BortError(f"{path} is not valid YAML ({shorten(error)}); restore it") from None


def _check_events(path: Path, text: str) -> None:
    """Raise BortError for aliases and deep nesting, before anything is made of the text."""
    depth = 0
    for event in yaml.parse(text, Loader=_PlainLoader):
        if isinstance(event, yaml.AliasEvent):
            raise BortError(f"{path} has the alias *{shorten(event.anchor, 20)}; write it out")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST_YAML:
            raise BortError(f"{path} is nested more than {DEEPEST_YAML} levels deep")


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a run stored as YAML, all of them values.

    Raises BortError for an interpolation: it would show what this machine's environment holds.
    """
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise BortError(f"{path} does not hold settings; restore it")
    _check_values(path, content)
    return content


def _check_values(path: Path, value: Any) -> None:
    parts = [value]
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list):
        parts = value
    for part in parts:
        if isinstance(part, dict | list):
            _check_values(path, part)
        elif isinstance(part, str) and "${" in part:
            raise BortError(f"{path} has the interpolation {shorten(part, 40)}; write its value")


def parse_object(text: str, where: str, remedy: str = "fix it or get the file again") -> dict:
    """Return the object in a text; raise BortError, which begins with `where`, for any other.

    remedy: what to do about it.
    """
    try:
        record = parse_json(text)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise BortError(f"{where}: not JSON ({reason}); {remedy}") from error
    if not isinstance(record, dict):
        kind = name_kind(type(record))
        raise BortError(f"{where}: {kind}, not an object {{…}}; {remedy}")
    return record
