"""Plans, and the files that they rest on: what was changed or damaged is refused."""

import json

import pytest

from bort.errors import BortError
from bort.search import optimum


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"{}", b"[" * 99999, b"null"])
@pytest.mark.parametrize(
    "name",
    "point.json losses.npy search.json entropy.npy documents.npy settings.json".split(),
)
def test_damaged_files_of_a_search_are_one_line(copied, name, content):
    path = min(copied.rglob(name), key=lambda path: len(path.parts))
    path.write_bytes(content)
    with pytest.raises(BortError, match=f"{name} (was|is missing,) changed") as error:
        optimum.choose_optimum(copied)
    assert "\n" not in str(error.value)
    path.unlink()
    if name != "point.json":
        with pytest.raises(BortError, match=name):
            optimum.choose_optimum(copied)


def test_an_edited_plan_is_refused(copied):
    """T's entropy decides every W, and p and î every bound."""
    plan = json.loads((copied / "search.json").read_text())
    plan["points"][0]["latency"][0] /= 2
    (copied / "search.json").write_text(json.dumps(plan))
    with pytest.raises(BortError, match="search.json was changed, damaged or written by another"):
        optimum.choose_optimum(copied)
