"""Latencies of another machine, and files that are no such table."""

import pytest

from bort.errors import BortError
from bort.models.arch import Arch
from bort.objectives.latency_table import read_latency_table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "table.csv does not exist; python -m bort.benchmark writes one"),
        ("depth,heads,hidden\n1,1,8\n", "has no column intermediate"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,fast\n", "line 2: could not convert"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,0\n", "latency_ms=0 must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,nan\n", "ms=nan must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,-1\n", "ms=-1 must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,inf\n", "ms=inf must be above 0"),
        ("depth,heads,hidden,intermediate,latency_ms\n1,1,8,9,1\n", "lacks 1 of the points: ⟨1,1"),
        (
            "depth,heads,hidden,intermediate,latency_ms\n1,1,8,8,0.103\n1,1,8,8,99\n",
            "line 3: ⟨1,1,8,8⟩ has 99 ms here and 0.103 ms further up; leave one of them out",
        ),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "table.csv is no CSV"),
        (b"depth,heads\0\n", "table.csv (is no CSV|has no column)"),
        ("", "has no column depth"),
    ],
)
def test_wrong_tables(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BortError, match=message):
        read_latency_table(path, [Arch(1, 1, 8, 8)])
