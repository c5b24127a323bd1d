"""Official files that are wrong: each mistake is one line, and what is no mistake is read."""

import random
import re
from pathlib import Path

import pytest
from task_rows import count_rows

from bort.errors import BortError
from bort.tasks.reading import read_rows
from bort.tasks.registry import find_task
from bort.tasks.task import Row


def folder_of(root: Path, name: str, **contents: str | bytes) -> Path:
    """A suite's folder with these files of one task; what is not given is a copy of `train`."""
    task = find_task(name)
    for split, place in task.splits.items():
        content = contents.get(split, contents.get("train"))
        path = root / task.folders[0] / place.files[0]
        if task.form == "race":
            path = path / "1.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


RTE = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n1\tc\td\tnot_entailment\n"

CB = '{"premise": "a", "hypothesis": "b", "label": "neutral", "idx": 0}\n'

WIC = (
    '{"word": "run", "sentence1": "He ran.", "sentence2": "I run", "idx": 0, "label": true, '
    '"start1": 3, "end1": 6, "start2": 2, "end2": 5}\n'
)

WSC = (
    '{"text": "Ann saw it.", "target": {"span1_text": "Ann", "span1_index": 0, '
    '"span2_text": "it", "span2_index": 2}, "idx": 0, "label": true}\n'
)

MULTIRC = (
    '{"idx": 0, "passage": {"text": "p", "questions": [{"question": "q", "idx": 0, '
    '"answers": [{"text": "a", "idx": 0, "label": 0}]}]}}\n'
)

RECORD = (
    '{"idx": 0, "passage": {"text": "Ann saw", "entities": [{"start": 0, "end": 2}]}, "qas": '
    '[{"query": "@placeholder ran", "idx": 5, "answers": [{"text": "Ann"}]}]}\n'
)

RACE = '{"id": "x", "article": "p", "questions": ["q"], "options": [["1", "2", "3", "4"]], '
RACE += '"answers": ["C"]}'

COPA = '{"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1, "idx": 0}'

GOOD = {
    "glue/rte": RTE,
    "superglue/cb": CB,
    "superglue/wic": WIC,
    "superglue/wsc": WSC,
    "superglue/multirc": MULTIRC,
    "superglue/record": RECORD,
    "superglue/copa": COPA,
    "race/high": RACE,
}


@pytest.mark.parametrize("name", GOOD)
def test_the_good_files_of_the_next_test_are_good(name, tmp_path):
    rows = read_rows(find_task(name), folder_of(tmp_path, name, train=GOOD[name]))
    assert all(row.label is not None for row in rows["val"]) and list(rows) == [
        "train",
        "val",
        "test",
    ]


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("glue/rte", "1\tc\td", "1\tc", r"dev.tsv, line 3: 3 columns, not 4"),
        ("glue/rte", "1\tc\td", "1\tc\td\te", r"dev.tsv, line 3: 5 columns, not 4"),
        ("glue/rte", "d\tnot_ent", "d\tent_", r"line 3: label 'ent_.*' is none of \"entailment\","),
        ("glue/rte", "label", "labels", r"dev.tsv, line 1: no column 'label' \(it has 'index, "),
        ("glue/rte", "sentence2", "hypo", r"dev.tsv, line 1: no column 'sentence2'"),
        ("glue/rte", "1\tc", "1\t\0c", r"dev.tsv, line 3: a NUL byte"),
        ("glue/rte", "b\tent", "b\n\tent", r"dev.tsv, line 2: 3 columns, not 4"),
        ("glue/rte", RTE.split("\n", 1)[1], "", r"dev.tsv: no rows in it"),
        ("glue/rte", RTE, "", r"dev.tsv is empty; give a file with rows"),
        ("superglue/cb", '"neutral"', '"maybe"', r"val.jsonl, line 1: label 'maybe' is none of"),
        ("superglue/cb", '"neutral"', "1", r"label 1 is none of \"entailment\", "),
        ("superglue/cb", '"neutral"', "null", r"val.jsonl, line 1: no 'label'"),
        ("superglue/cb", '"label": "neutral", ', "", r"val.jsonl, line 1: no 'label'"),
        ("superglue/cb", '"premise"', '"prem"', r"line 1: no 'premise' \(it has 'prem, "),
        ("superglue/cb", '"a"', "3", r"line 1: 'premise' is 3, not text"),
        ("superglue/cb", '"a"', r'"\ud800"', r"line 1: 'premise' has half a character"),
        ("superglue/cb", "0}", "0.5}", r"line 1: 'idx' is 0.5, not a whole number or text"),
        ("superglue/cb", "0}", '"x"}', r"line 1: 'idx' is 'x', not a number"),
        ("superglue/cb", "}", "", r"val.jsonl, line 1: not JSON \("),
        ("superglue/cb", "{", "\n{", r"val.jsonl, line 1: not JSON \("),
        ("superglue/cb", CB, "[]", r"val.jsonl, line 1: a list, not an object"),
        ("superglue/cb", CB, 99_999 * "[", r"val.jsonl, line 1: not JSON \("),
        ("superglue/copa", "cause", "why", r"line 1: question 'why' is none of cause, effect"),
        ("superglue/copa", '"label": 1', '"label": true', r"label True is none of 0, 1"),
        ("superglue/wic", "true", "1", r"label 1 is none of false, true"),
        ("superglue/wic", '"start1": 3', '"start1": 2', r"characters 2 to 6 of sentence1 are no"),
        ("superglue/wic", '"end1": 6', '"end1": 5', r"line 1: characters 3 to 5 .* 'run' should"),
        ("superglue/wic", '"end2": 5', '"end2": 55', r"characters 2 to 55 of sentence2 are no"),
        ("superglue/wic", '"end2": 5', '"end2": 2', r"characters 2 to 2 of sentence2 are no"),
        ("superglue/wsc", '"Ann",', '"Bob",', r"line 1: 'Bob' \(span1_text\) is not in the text"),
        ("superglue/wsc", '"target"', '"aim"', r"line 1: no 'target'"),
        ("superglue/multirc", '"label": 0', '"label": 2', r"line 1: label 2 is none of 0, 1"),
        ("superglue/multirc", ', "label": 0', "", r"val.jsonl, line 1: no 'label'"),
        ("superglue/multirc", '"text": "p"', '"text": null', r"line 1: no 'paragraph'"),
        (
            "superglue/multirc",
            '[{"text": "a", "idx": 0, "label": 0}]',
            "[]",
            r"line 1: 'answers' is empty",
        ),
        ("superglue/multirc", '[{"text"', '[4, {"text"', r"line 1: 4 where an object with"),
        ("superglue/record", '"end": 2', '"end": 7', r"line 1: entity 0 to 7 is not in the text"),
        ("superglue/record", "@placeholder", "She", r"line 1: no @placeholder in the query"),
        ("superglue/record", '[{"text": "Ann"}]', "[]", r"line 1: no 'answers'"),
        ("superglue/record", '[{"text": "Ann"}]', "7", r"line 1: 'answers' is 7, not a list"),
        ("race/high", '"C"', '"E"', r"1.txt, question 0: label 'E' is none of \"A\", "),
        ("race/high", '"C"', '"C", "A"', r"1.txt: 1, 1, 2 questions, options and answers"),
        ("race/high", '"4"', '"4", "5"', r"1.txt, question 0: 5 options, not 4"),
        ("race/high", '["q"]', "[]", r"1.txt: 'questions' is empty"),
        ("race/high", '"article": "p", ', "", r"1.txt, question 0: no 'article'"),
        ("race/high", '"C"]}', '"C"', r"1.txt: not JSON \("),
    ],
)
def test_a_wrong_file_is_one_line(name, old, new, message, tmp_path):
    good = GOOD[name]
    assert old in good
    root = folder_of(tmp_path, name, train=good, val=good.replace(old, new, 1))
    with pytest.raises(BortError, match=message) as caught:
        read_rows(find_task(name), root)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_bytes_that_are_no_text(tmp_path):
    root = folder_of(
        tmp_path, "glue/rte", train=RTE, val=RTE.replace("\tc", "\té").encode("latin-1")
    )
    place = RTE.index("\tc") + 1
    with pytest.raises(BortError, match=rf"dev.tsv: not UTF-8 at byte {place}; convert"):
        read_rows(find_task("glue/rte"), root)


def test_score_must_be_on_the_scale(tmp_path):
    text = "index\tsentence1\tsentence2\tscore\n0\ta\tb\t{}\n"
    for value in ("5.1", "-0.1", "nan", "inf", "", "five"):
        root = folder_of(tmp_path, "glue/stsb", train=text.format(5), val=text.format(value))
        with pytest.raises(BortError, match=rf"dev.tsv, line 2: score '{value}', not a number"):
            read_rows(find_task("glue/stsb"), root)


def test_line_ends_and_separators(tmp_path):
    """\\n and \\r\\n end a line; nothing else does, and the last one may have no end."""
    odd = RTE.replace("\ta", "\ta\u2028\x85\f\x1f\r")
    rows = read_rows(find_task("glue/rte"), folder_of(tmp_path / "a", "glue/rte", train=odd))["val"]
    assert rows[0].texts == ("a\u2028\x85\f\x1f\r", "b")
    windows = read_rows(
        find_task("glue/rte"),
        folder_of(tmp_path / "b", "glue/rte", train="\ufeff" + RTE.replace("\n", "\r\n")),
    )
    assert windows == read_rows(
        find_task("glue/rte"), folder_of(tmp_path / "c", "glue/rte", train=RTE[:-1])
    )
    odd = CB.replace('"a"', '"a\u2028\x85"').replace("\n", "\r\n")
    odd += odd[:-2].replace('"idx": 0', '"idx": 1')
    rows = read_rows(
        find_task("superglue/cb"), folder_of(tmp_path / "d", "superglue/cb", train=odd)
    )["val"]
    assert [row.texts for row in rows] == 2 * [("a\u2028\x85", "b")]


def test_files_of_another_suite(shared):
    """GLUE and SuperGLUE both have a folder RTE; and the folder above all suites is no suite."""
    data = shared / "data"
    with pytest.raises(
        BortError, match="no RTE/train.tsv .*; its files are those of task=superglu"
    ):
        read_rows(find_task("glue/rte"), data / "superglue")
    with pytest.raises(
        BortError, match="no RTE/train.jsonl .*; its files are those of task=glue/r"
    ):
        read_rows(find_task("superglue/rte"), data / "glue")
    for name, folder in (("glue/cola", "glue"), ("race/high", "race")):
        with pytest.raises(BortError, match=rf"; give data.root={data / folder}$"):
            read_rows(find_task(name), data)


def test_missing_files(tmp_path):
    root = folder_of(tmp_path / "glue", "glue/rte", train=RTE)
    (root / "RTE" / "test.tsv").unlink()
    assert list(read_rows(find_task("glue/rte"), root)) == ["train", "val"]
    (root / "RTE" / "dev.tsv").unlink()
    with pytest.raises(BortError, match=rf"data.root={root}: no RTE/dev.tsv for glue/rte; get the"):
        read_rows(find_task("glue/rte"), root)
    with pytest.raises(BortError, match=rf"no RTE/train.tsv .*; give the folder above, {root}$"):
        read_rows(find_task("glue/rte"), root / "RTE")
    with pytest.raises(BortError, match=r"no WNLI/train.tsv .*; .*nowhere is not there"):
        read_rows(find_task("glue/wnli"), tmp_path / "nowhere")
    with pytest.raises(BortError, match=r"train.tsv is a file$"):
        read_rows(find_task("glue/wnli"), root / "RTE" / "train.tsv")
    (root / "RTE").rename(root / "RTEs")
    with pytest.raises(BortError, match=r"no RTE/train.tsv .*did you mean 'RTEs'"):
        read_rows(find_task("glue/rte"), root)
    with pytest.raises(BortError, match=r"no AX/diagnostic.tsv \(nor AX/AX.tsv, diagnostic/diag"):
        read_rows(find_task("glue/ax"), root)
    (tmp_path / "race" / "train" / "high").mkdir(parents=True)
    (tmp_path / "race" / "dev" / "high").mkdir(parents=True)
    with pytest.raises(BortError, match=r"train/high: no rows in it"):
        read_rows(find_task("race/high"), tmp_path / "race")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    root = folder_of(tmp_path, "glue/rte", train=RTE)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BortError, match=rf"glue/rte: Permission denied: {root}/RTE/train.tsv;"):
        read_rows(find_task("glue/rte"), root)


@pytest.mark.parametrize("place", ["AX/diagnostic.tsv", "diagnostic/diagnostic.tsv", "AX.tsv"])
def test_spellings_of_the_diagnostic_set(place, tmp_path):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert read_rows(find_task("glue/ax"), tmp_path) == {"test": [Row(0, ("a", "b"))]}


def test_a_submission_needs_each_index_once(tmp_path):
    twice = RTE.replace("\n1", "\n0")
    root = folder_of(tmp_path, "glue/rte", train=twice, test=RTE)
    assert [row.index for row in read_rows(find_task("glue/rte"), root)["train"]] == [0, 1]
    folder_of(tmp_path, "glue/rte", train=RTE, test=twice)
    with pytest.raises(BortError, match=r"test.tsv: index 0 occurs twice"):
        read_rows(find_task("glue/rte"), tmp_path)


def test_a_pair_without_its_second_half(tmp_path):
    line = '{"premise": "a", "hypothesis": "b", "label": "entailment", "idx": %d}\n'
    (tmp_path / "AX-g").mkdir()
    file = tmp_path / "AX-g" / "AX-g.jsonl"
    file.write_text("".join(line % k for k in range(3)))
    with pytest.raises(BortError, match=r"AX-g.jsonl: 3 rows, not pairs of rows"):
        read_rows(find_task("superglue/axg"), tmp_path)


MUTATED = {  # task: file below the suite's folder
    "glue/cola": "CoLA/dev.tsv",
    "glue/stsb": "STS-B/dev.tsv",
    "glue/rte": "RTE/test.tsv",
    "glue/mnli": "MNLI/dev_mismatched.tsv",
    "superglue/boolq": "BoolQ/val.jsonl",
    "superglue/multirc": "MultiRC/val.jsonl",
    "superglue/wsc": "WSC/val.jsonl",
    "superglue/wic": "WiC/train.jsonl",
    "superglue/record": "ReCoRD/val.jsonl",
    "race/middle": "dev/middle/13.txt",
}


def small_copy(shared: Path, name: str, root: Path) -> Path:
    """The first 8 lines of each official file of a task (of MultiRC and ReCoRD 2; RACE 2 files)."""
    task, source = find_task(name), shared / "data" / name.split("/")[0]
    lines = 2 if task.form in ("multirc", "record") else 9
    for split in task.splits.values():
        path = source / task.folders[0] / split.files[0]
        copy = root / task.folders[0] / split.files[0]
        if path.is_dir():
            copy.mkdir(parents=True)
            for file in sorted(path.iterdir(), key=lambda file: int(file.stem))[:2]:
                (copy / file.name).write_bytes(file.read_bytes())
        elif path.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            kept = path.read_bytes().split(b"\n")[:lines]
            copy.write_bytes(b"\n".join(kept).removesuffix(b"\n") + b"\n")
    return root


def mutate(content: bytes, kind: str, name: str, rng: random.Random) -> tuple[bytes, int]:
    """Content changed at one place, and the line that must be complained of (0: any, or none)."""
    lines = content.split(b"\n")
    at = rng.randrange(1, len(lines) - 1) if len(lines) > 2 else 0
    place = rng.randrange(1, len(content))
    json_lines = not name.startswith("glue")
    if kind == "cut":
        return content[:place], 0
    if kind == "byte":
        return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :], 0
    if kind == "latin":
        return content[:place] + "é".encode("latin-1") + content[place:], 0
    if kind == "utf-16":
        return content.decode().encode("utf-16"), 0
    if kind == "nul":
        return content[:place] + b"\0" + content[place:], content.count(b"\n", 0, place) + 1
    if kind == "crlf":
        return content.replace(b"\n", b"\r\n"), 0
    if kind == "empty":
        return b"", 0
    if kind == "column":
        if json_lines:
            lines[at] = re.sub(rb'"(text|passage|article|word)":', b'"other":', lines[at], count=1)
        else:
            lines[at] = lines[at].rpartition(b"\t")[0]
    if kind == "label":
        if json_lines:
            key = rb'"(label|answers)": (true|false|\d|\[)'
            lines[at] = re.sub(key, rb'"\1": "odd", "x": \2', lines[at], count=1)
        else:
            cells = lines[at].split(b"\t")
            cells[1 if name == "glue/cola" else -1] = b"odd"
            lines[at] = b"\t".join(cells)
    return b"\n".join(lines), at + 1


KINDS = ("cut", "column", "byte", "label", "latin", "utf-16", "nul", "crlf", "empty", "byte")


@pytest.mark.parametrize("name", MUTATED)
def test_a_mutated_file_is_refused_in_one_line_or_read_whole(name, shared, tmp_path):
    root = small_copy(shared, name, tmp_path)
    task, rng = find_task(name), random.Random(name)
    file = root / MUTATED[name]
    whole = file.read_bytes()
    (split,) = (
        key
        for key, place in task.splits.items()
        if any(MUTATED[name].endswith(f) or f in MUTATED[name] for f in place.files)
    )
    header = int(name != "glue/cola")
    # those of RACE's second file
    others = len(read_rows(task, root)[split]) - count_rows(whole, name, header)
    refused = 0
    for kind in 3 * KINDS:
        content, line = mutate(whole, kind, name, rng)
        file.write_bytes(content)
        try:
            rows = read_rows(task, root)[split]
        except BortError as error:
            refused += 1
            message = str(error)
            assert str(file) in message and "\n" not in message, message
            found = re.search(r", line (\d+)", message)
            assert not found or int(found[1]) <= content.count(b"\n") + 1
            if line and task.form != "race":
                assert found and int(found[1]) == line, (kind, message)
        else:
            assert len(rows) == count_rows(content, name, header) + others, kind
            index = kind == "label" and split == "test"  # there it is the last text that changed
            assert kind in ("cut", "byte", "crlf") or index, kind
        if kind == "crlf":
            assert len(rows) == count_rows(whole, name, header) + others
    assert refused >= 15
