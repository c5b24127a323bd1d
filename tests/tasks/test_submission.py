"""Official submission files: a line per row, nested where the suite asks for it."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from task_rows import queries

from bort.tasks.reading import read_rows
from bort.tasks.registry import find_task
from bort.tasks.submission import write_submission
from bort.tasks.task import Row


@cache
def real(shared: Path, name: str, split: str = "val") -> list[Row]:
    return read_rows(find_task(name), shared / "data" / name.split("/")[0])[split]


def submit(folder: Path, case: Path, name: str, **given) -> dict[str, str]:
    """The written files by name, for the answers of these splits."""
    rows = read_rows(find_task(name), case / name.split("/")[0])
    paths = write_submission(find_task(name), rows, given, folder)
    assert sorted(paths) == sorted(path for path in folder.iterdir())
    return {path.name: path.read_bytes().decode() for path in paths}


@pytest.mark.parametrize(
    "name, first, last",
    [
        ("glue/rte", "index\tprediction\n0\tentailment\n1\tnot_entailment\n", "6\tentailment\n"),
        ("glue/cola", "index\tprediction\n0\t0\n1\t1\n", "6\t0\n"),
        (
            "superglue/boolq",
            '{"idx": 0, "label": "false"}\n{"idx": 1, "label": "true"}\n',
            '{"idx": 6, "label": "false"}\n',
        ),
        (
            "superglue/copa",
            '{"idx": 0, "label": 0}\n{"idx": 1, "label": 1}\n',
            '{"idx": 4, "label": 0}\n',
        ),
    ],
)
def test_one_line_per_row(name, first, last, shared, tmp_path):
    case = shared / "cases" / "U1-submission-rows"
    given = [0, 1, 0, 1, 0, 1, 0][: 5 if name == "superglue/copa" else 7]
    (file, text), *more = submit(tmp_path, case, name, test=given).items()
    kind = "tsv" if name.startswith("glue") else "jsonl"
    folder = {"rte": "RTE", "cola": "CoLA", "boolq": "BoolQ", "copa": "COPA"}[name.split("/")[1]]
    assert file == f"{folder}.{kind}" and not more
    assert text.startswith(first) and text.endswith("\n" + last)
    assert text.count("\n") == len(given) + (kind == "tsv")


def test_two_files_of_mnli_and_the_diagnostic_one(shared, tmp_path):
    case = shared / "cases" / "F2-label-names"
    files = submit(tmp_path / "m", case, "glue/mnli", test=[2] * 9, test_mm=[1] * 7, val=[0] * 9)
    assert list(files) == ["MNLI-m.tsv", "MNLI-mm.tsv"]
    rows = "".join(f"{k}\tneutral\n" for k in range(7))
    assert files["MNLI-mm.tsv"] == f"index\tprediction\n{rows}"
    assert files["MNLI-m.tsv"].count("\tcontradiction\n") == 9
    ax = submit(tmp_path / "ax", case, "glue/ax", test=[0] * 5)
    assert ax["AX.tsv"].count("\tentailment\n") == 5


def test_scores_of_stsb_are_cut_to_the_scale(shared, tmp_path):
    case = shared / "cases" / "F3-regression-shape"
    given = [-0.5, 5.5, 2.25, 1e-9, 0.1234567, 5, 0]
    lines = submit(tmp_path, case, "glue/stsb", test=given)["STS-B.tsv"].split("\n")
    assert lines[1:-1] == [
        f"{k}\t{v}"
        for k, v in enumerate(
            "0.000000 5.000000 2.250000 0.000000 0.123457 5.000000 0.000000".split()
        )
    ]


def test_nesting_of_multirc(shared, tmp_path):
    case = shared / "cases" / "F4-multirc-scores"
    given = [1, 0, 0, 0, 1, 1, 1, 1]
    text = submit(tmp_path, case, "superglue/multirc", test=given)["MultiRC.jsonl"]
    first, second = map(json.loads, text.rstrip("\n").split("\n"))
    assert first == {
        "idx": 0,
        "passage": {
            "questions": [
                {"idx": 0, "answers": [{"idx": k, "label": y} for k, y in enumerate((1, 0, 0))]},
                {"idx": 1, "answers": [{"idx": k, "label": y} for k, y in enumerate((0, 1))]},
            ]
        },
    }
    assert second["idx"] == 1 and [q["idx"] for q in second["passage"]["questions"]] == [0]
    assert text.startswith('{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx"')


def test_real_submissions_have_every_row(shared, tmp_path):
    """Of the other layouts: what the official test file asks for, in its order."""
    data = shared / "data"
    for name in ("superglue/multirc", "superglue/wsc", "superglue/axb", "race/high"):
        task, rows = find_task(name), real(shared, name, "test")
        given = np.arange(len(rows)) % len(task.labels)
        (path,) = write_submission(task, {"test": rows}, {"test": given}, tmp_path)
        lines = path.read_text().rstrip("\n").split("\n")
        if name == "superglue/multirc":
            asked = (data / "superglue" / "MultiRC" / "test.jsonl").read_text().split("\n")
            for line, wanted in zip(lines, filter(None, asked), strict=True):
                line, wanted = json.loads(line), json.loads(wanted)
                shapes = [
                    [
                        (q["idx"], [a["idx"] for a in q["answers"]])
                        for q in x["passage"]["questions"]
                    ]
                    for x in (line, wanted)
                ]
                assert shapes[0] == shapes[1] and line["idx"] == wanted["idx"]
        elif name == "race/high":
            assert path.name == "RACE-H.tsv" and lines[0] == "id\tanswer"
            ids = [line.split("\t")[0] for line in lines[1:]]
            assert len(set(ids)) == 407 and ids[0].endswith(".txt-0")
            assert lines[3].endswith("\tC")
        else:
            records = [json.loads(line) for line in lines]
            assert [r["idx"] for r in records] == list(range(len(rows)))
            expected = {"superglue/wsc": ["False", "True"]}.get(name, list(task.labels))
            assert [r["label"] for r in records[:2]] == expected
    (path,) = write_submission(
        find_task("superglue/record"), {"test": queries()}, {"test": [0, 0, 1, 2, 1]}, tmp_path
    )
    assert path.read_text() == '{"idx": 5, "label": "Bob"}\n{"idx": 6, "label": "U.S."}\n'
