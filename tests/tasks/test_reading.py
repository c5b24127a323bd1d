"""Official files and hub rows to typed rows: counts, and every way in which a file is wrong."""

import json
import re
import socket
from functools import cache
from pathlib import Path

import pytest
from task_rows import COUNTS, count_rows

from bort.errors import BortError
from bort.tasks import reading
from bort.tasks.reading import read_rows
from bort.tasks.registry import find_task
from bort.tasks.task import Row

# How often each label of the table occurs in training (None: in the only file), from there too.
LABELS = {
    "glue/cola": (2528, 6023),
    "glue/sst2": (29780, 37569),
    "glue/mrpc": (1194, 2474),
    "glue/qqp": (5910, 3409),
    "glue/mnli": (3568, 3472, 3437),
    "glue/qnli": (5173, 5120),
    "glue/rte": (1249, 1241),
    "glue/wnli": (323, 312),
    "superglue/boolq": (402, 659),
    "superglue/cb": (115, 119, 16),
    "superglue/copa": (195, 205),
    "superglue/multirc": (15218, 12025),
    "superglue/rte": (1249, 1241),
    "superglue/wic": (2714, 2714),
    "superglue/wsc": (295, 259),
    "superglue/axb": (460, 644),
    "superglue/axg": (178, 178),
}


@cache
def real(shared: Path, name: str) -> dict[str, list[Row]]:
    return read_rows(find_task(name), shared / "data" / name.split("/")[0])


@pytest.mark.parametrize("name", COUNTS)
def test_real_files(name, shared):
    rows = real(shared, name)
    assert tuple(map(len, rows.values())) == COUNTS[name]
    task = find_task(name)
    assert list(rows) == [s for s in task.splits if (name, s) != ("superglue/record", "test")]
    for split, found in rows.items():
        if task.form != "race":
            file = shared / "data" / name.split("/")[0] / task.folders[0]
            content = (file / task.splits[split].files[0]).read_bytes()
            header = 1 if task.form == "tsv" and not task.splits[split].header else 0
            assert len(found) == count_rows(content, name, header)
        if split.startswith("test"):
            assert len({row.index for row in found}) == len(found)
        else:
            assert None not in [row.label for row in found]
        assert {len(row.texts) for row in found} == {len(task.columns)}
    if name in LABELS:
        first = rows.get("train", rows.get("test"))
        assert tuple(map([r.label for r in first].count, range(len(task.labels)))) == LABELS[name]


def test_rows_of_the_files_are_the_rows_given(shared):
    """One row of each shape, against the file read by hand."""
    data = shared / "data"
    line = (data / "glue" / "MRPC" / "test.tsv").read_text().split("\n")[3].split("\t")
    assert real(shared, "glue/mrpc")["test"][2] == Row(int(line[0]), (line[3], line[4]))
    given = json.loads((data / "superglue" / "COPA" / "val.jsonl").read_text().split("\n")[0])
    assert real(shared, "superglue/copa")["val"][0] == Row(
        0,
        (given["premise"], "What happened as a result?", given["choice1"], given["choice2"]),
        label=1,
    )
    file = min((data / "race" / "dev" / "high").iterdir(), key=lambda f: int(f.stem))
    given = json.loads(file.read_text())
    row = real(shared, "race/high")["val"][1]
    assert row.index == (given["id"], 1) and row.label == "ABCD".index(given["answers"][1])
    assert row.texts == (given["article"], given["questions"][1], *given["options"][1])
    given = json.loads((data / "superglue" / "ReCoRD" / "val.jsonl").read_text().split("\n")[0])
    rows = [r for r in real(shared, "superglue/record")["val"] if r.index[0] == given["idx"]]
    assert {r.group for r in rows} == {(12705, 19617)}
    assert [r.texts[2] for r in rows[:4]] == ["Islamabad", "Pakistan", "CNN", "Benazir Bhutto"]
    assert {r.texts[2] for r in rows if r.label} == {"Benazir Bhutto", "Bhutto"}
    assert set(rows[0].answers) == {"Benazir Bhutto", "Bhutto"}
    pairs = [row.group for row in real(shared, "superglue/axg")["test"]]
    assert pairs[:5] == [0, 0, 1, 1, 2] and pairs[-1] == 177


def test_same_pairs_have_the_same_labels_in_both_suites(shared):
    """RTE is in both, by text and by label."""
    for split in ("train", "val", "test"):
        one, two = (real(shared, f"{suite}/rte")[split] for suite in ("glue", "superglue"))
        assert [row.label for row in one] == [row.label for row in two]


def test_quotes_and_byte_order_mark(shared):
    rows = read_rows(find_task("glue/mrpc"), shared / "cases" / "D1-tsv-quotes" / "glue")
    assert [len(rows[s]) for s in ("train", "val", "test")] == [6, 4, 5]
    assert [row.index for row in rows["test"]] == [0, 1, 2, 3, 4]
    assert any('"' in text for row in rows["train"] for text in row.texts)
    text = (shared / "cases" / "D1-tsv-quotes" / "glue" / "MRPC" / "train.tsv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbf")
    cells = [line.split("\t") for line in text.decode("utf-8-sig").split("\n")[1:-1]]
    assert [row.texts for row in rows["train"]] == [(c[3], c[4]) for c in cells]


def test_words_that_mean_nothing_elsewhere_are_text(shared):
    folder = shared / "cases" / "D2-na-words" / "glue"
    rows = read_rows(find_task("glue/sst2"), folder)
    assert [len(rows[s]) for s in ("train", "val", "test")] == [8, 4, 6]
    lines = (folder / "SST-2" / "train.tsv").read_text().split("\n")[1:-1]
    assert [row.texts[0] for row in rows["train"]] == [line.split("\t")[0] for line in lines]
    assert rows["test"][3] == Row(3, ("",)) and [r.index for r in rows["test"]] == [*range(6)]


def test_label_numbers_come_from_the_table(shared):
    rows = read_rows(find_task("glue/mnli"), shared / "cases" / "F2-label-names" / "glue")
    assert [len(rows[s]) for s in ("test", "test_mm")] == [9, 7]
    # the first rows of both validation files, whose labels are in different orders
    assert [row.label for row in rows["val"][:2]] == [0, 1]
    assert [row.label for row in rows["val_mm"][:2]] == [2, 1]
    assert (
        len(read_rows(find_task("glue/ax"), shared / "cases" / "F2-label-names" / "glue")["test"])
        == 5
    )


def test_question_numbers_start_again_in_each_passage(shared):
    rows = read_rows(
        find_task("superglue/multirc"), shared / "cases" / "F4-multirc-scores" / "superglue"
    )
    assert [r.group for r in rows["val"]] == 3 * [(0, 0)] + 2 * [(0, 1)] + 3 * [(1, 0)]
    assert [r.label for r in rows["val"]] == [1, 0, 1, 0, 1, 1, 1, 0]
    assert [r.label for r in rows["test"]] == 8 * [None]
    assert rows["test"][4].index == (0, 1, 1)


def test_wsc_spans_of_all_real_rows(shared):
    """Their texts agree with the file's, but for two rows that name people whom the text does not
    name together."""

    def bare(text):
        return re.sub(r"[\W_]", "", text).lower()

    apart, far = [], []
    for split in ("train", "val", "test"):
        lines = (shared / "data" / "superglue" / "WSC" / f"{split}.jsonl").read_text().split("\n")
        rows = real(shared, "superglue/wsc")[split]
        for row, line in zip(rows, filter(None, lines), strict=True):
            target = json.loads(line)["target"]
            for k, (start, end) in enumerate(row.spans, start=1):
                text, words = row.texts[0], target[f"span{k}_text"]
                if bare(text[start:end]) != bare(words):
                    assert bare(words).startswith(bare(text[start:end]))
                    apart.append((split, row.index, text[start:end]))
                before = len(text[:start].split()) - (start > 0 and not text[start - 1].isspace())
                if before != target[f"span{k}_index"]:
                    far.append((split, row.index))
    assert apart == [("test", 80, "Kamenev"), ("test", 82, "Kamenev")]
    assert ("val", 42) in far and len(far) <= 4


def test_race_files_are_told_apart(shared):
    folder = shared / "cases" / "F6-race-room" / "race"
    rows = read_rows(find_task("race/middle"), folder)["test"]
    assert [row.index[0] for row in rows] == ["middle2.txt", "middle10.txt"]
    assert all(row.label is not None for row in rows)
    assert {row.index for row in read_rows(find_task("race/high"), folder)["test"]} == {
        ("high1.txt", 0),
        ("high1.txt", 1),
    }


def as_on_the_hub(name: str, shared: Path, split: str, count: int = 12):
    """The first records of a real file in the columns, types and label numbers of the hub."""
    from datasets import ClassLabel, Dataset

    task = find_task(name)
    suite, short = name.split("/")
    folder = shared / "data" / suite
    if suite == "glue":
        lines = (folder / task.folders[0] / task.splits[split].files[0]).read_text("utf-8-sig")
        cells = [line.split("\t") for line in lines.split("\n") if line]
        header = list(task.splits[split].header) or cells.pop(0)
        given = [dict(zip(header, line, strict=True)) for line in cells[:count]]
        texts = task.hub_columns or task.columns
        records = [
            {new: r[old] for new, old in zip(texts, task.columns, strict=True)} | {"idx": n}
            for n, r in enumerate(given)
        ]
        for record, r in zip(records, given, strict=True):
            value = r.get(task.label)
            if short == "stsb":
                record["label"] = float(value) if value else -1.0
            else:
                record["label"] = task.spelled.index(value) if value else -1
    else:
        file = folder / task.folders[0] / task.splits[split].files[0]
        if suite == "race":
            first = min(file.iterdir(), key=lambda f: int(f.stem))
            r = json.loads(first.read_text())
            records = [
                {"example_id": r["id"], "article": r["article"], "question": q, "options": o}
                | {"answer": a}
                for q, o, a in zip(r["questions"], r["options"], r["answers"], strict=True)
            ]
            return Dataset.from_list(records)
        given = [json.loads(line) for line in file.read_text().split("\n")[:count]]
        records = []
        for r in given:
            passage = r.get("passage")
            if short == "multirc":
                records += [
                    {"paragraph": passage["text"], "question": q["question"], "answer": a["text"]}
                    | {"idx": {"paragraph": r["idx"], "question": q["idx"], "answer": a["idx"]}}
                    | {"label": a.get("label", -1)}
                    for q in passage["questions"]
                    for a in q["answers"]
                ]
            elif short == "record":
                text = passage["text"]
                found = [text[e["start"] : e["end"] + 1] for e in passage["entities"]]
                records += [
                    {"passage": text, "query": q["query"], "entities": found}
                    | {"answers": [a["text"] for a in q["answers"]]}
                    | {"idx": {"passage": r["idx"], "query": q["idx"]}}
                    for q in r["qas"]
                ]
            else:
                r |= r.pop("target", {})
                value = r.get("label")
                r["label"] = -1 if value is None else task.spelled.index(value)
                r["idx"] = int(r["idx"])
                records.append(r)
    table = Dataset.from_list(records)
    if short in ("stsb", "record"):
        return table
    # The hub writes False where a submission has false.
    labels = ClassLabel(names=[x.capitalize() if x == "false" else x for x in task.labels])
    return table.cast_column("label", labels)


@pytest.mark.parametrize("name", COUNTS)
def test_hub_gives_the_rows_of_the_files(name, shared, monkeypatch):
    import datasets

    task, files = find_task(name), real(shared, name)
    asked = []

    def load_dataset(*names):
        asked.append(names)
        return {task.splits[split].hub: as_on_the_hub(name, shared, split) for split in files}

    monkeypatch.setattr(reading, "is_hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read_rows(task, None)
    assert asked == [(task.hub, task.config)] and list(rows) == list(files)
    for split, found in rows.items():
        assert found and found == files[split][: len(found)]


def test_hub_labels_are_told_by_name_not_by_number(monkeypatch):
    import datasets

    names = datasets.ClassLabel(names=["contradiction", "entailment", "neutral"])
    table = datasets.Dataset.from_list(
        [{"premise": "a", "hypothesis": "b", "idx": n, "label": n} for n in range(3)]
    ).cast_column("label", names)
    splits = ("train", "validation_matched", "validation_mismatched", "test_matched")
    monkeypatch.setattr(reading, "is_hub_reachable", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: dict.fromkeys(splits, table))
    rows = read_rows(find_task("glue/mnli"), None)
    assert [row.label for row in rows["train"]] == [2, 0, 1]
    assert "test_mm" not in rows
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": table})
    with pytest.raises(BortError, match="no split 'validation_matched'; set data.root"):
        read_rows(find_task("glue/mnli"), None)

    def refuse(*_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(BortError, match="does not give nyu-mll/glue, mnli: no route; set data"):
        read_rows(find_task("glue/mnli"), None)


def test_without_a_hub_the_cache_answers_at_once(monkeypatch, tmp_path):
    """The client of the hub would ask for 23 s; a copy that is there is read as ever."""
    import datasets

    monkeypatch.setattr(reading, "is_hub_reachable", lambda: False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    message = (
        "glue/rte: the hub does not give nyu-mll/glue, rte: it cannot be reached, and there is no "
        "copy in the local cache; set data.root to a folder"
    )
    with pytest.raises(BortError) as error:
        read_rows(find_task("glue/rte"), None)
    assert str(error.value) == message

    def load_dataset(*_):
        assert datasets.config.HF_HUB_OFFLINE
        row = {"sentence1": "a", "sentence2": "b", "idx": 0, "label": 1}
        return {name: datasets.Dataset.from_list([row]) for name in ("train", "validation")}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [row.texts for row in read_rows(find_task("glue/rte"), None)["train"]] == [("a", "b")]
