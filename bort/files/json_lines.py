"""The reader of files with a JSON object on each line, whoever wrote them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bort.files.text_files import check_no_nul, read_lines
from bort.files.untrusted import parse_object


class JsonLine(NamedTuple):
    """The object on a line of a file."""

    record: dict[str, Any]
    where: str  # `FILE, line N`, with which a line about a mistake begins
    number: int  # from 1
    size: int  # bytes of text, the end of the line included


def read_json_lines(
    path: Path, remedy: str = "fix it or get the file again", skips_blank: bool = False
) -> Iterator[JsonLine]:
    """Yield the objects of a file, with one line in memory at a time; of an empty file nothing.

    Only \\n ends a line, and the last line may lack it. remedy: what to do about a damaged line.
    skips_blank: whether blank lines are passed over, as in files that a user writes.

    Raises BortError, with the line, for what is no object, half an object at the end too, and for
    another encoding; raises OSError where the file cannot be read.
    """
    for text, number, size in read_lines(path):
        where = f"{path}, line {number}"
        check_no_nul(text, where)
        if text.strip() or not skips_blank:
            yield JsonLine(parse_object(text, where, remedy), where, number, size)
