"""The page of a run of Agora, whole and of damaged files."""

import csv as csv_module
import json
import re
from html import unescape

import pytest

from bort import report
from bort.agora import report as agora_page
from bort.agora.result import ARMS
from bort.errors import BortError


def test_the_page(whole):
    """The arms as summary.json has them, the verdict, every training as a point."""
    folder, summary, _ = whole
    report.write_page(folder)
    text = (folder / "report.html").read_text()
    cells = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", text)]
    for arm, label in (*ARMS.items(), ("teacher", "S, the judge")):
        prefix = "" if arm == "agora" else f"{arm}/"
        place = cells.index(label)
        assert cells[place + 1] == f"{summary[f'{prefix}val/accuracy']:.4f}"
        assert cells[place + 3] == f"{summary[f'{prefix}eval/accuracy']:.4f}"
    controls = [summary[f"{arm}/val/accuracy"] for arm in ("plain", "random")]
    assert f"({summary['val/accuracy'] - max(controls):+.4f})" in text
    rounds = json.loads((folder / "rounds.json").read_text())["rounds"]
    with (folder / "metrics.csv").open(newline="") as file:
        points, line = agora_page.plot_rounds(list(csv_module.DictReader(file)), rounds).data
    assert list(points.x) == [1, 1, 2]
    assert list(line.y) == [max(each["scores"].values()) for each in rounds]
    assert "Rows that were generated" in text and "<script src" not in text


def test_pages_of_damaged_runs_are_one_line(whole, tmp_path):
    """Each file of the page cut, emptied, or of another type: a page, or one line about it."""
    folder, summary, _ = whole
    refused = 0
    for name in ("rounds.json", "generated.jsonl", "metrics.csv"):
        content = (folder / name).read_bytes()
        damages = [content[: len(content) // 2], b"", b"[]", b"5\n", b"{}\n", b"[" * 100_000]
        damages += [b'{"rounds": 5}', b'{"rounds": [{"best": 1}]}', b"\xff", b"step,round\n1,x\n"]
        for damage in damages:
            for file in ("rounds.json", "generated.jsonl", "metrics.csv"):
                (tmp_path / file).write_bytes((folder / file).read_bytes())
            (tmp_path / name).write_bytes(damage)
            try:
                list(agora_page.build_parts(tmp_path, summary))
            except BortError as error:
                refused += 1
                assert str(tmp_path) in str(error) and "\n" not in str(error)
    assert refused > 20
    with pytest.raises(BortError, match=r"summary\.json is damaged"):
        list(agora_page.build_parts(tmp_path, {"metric": 5}))
