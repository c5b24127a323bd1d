"""The predict.py of an ONNX folder: answers and refusals of `bort.load`, memory, command line."""

import gzip
import io
import itertools
import json
import lzma
import subprocess
import sys
import types

import pytest
import torch
from tiny_runs import add_head

import bort
from bort.errors import BortError
from bort.export import run as export
from bort.export import standalone
from bort.export.standalone import Mistake, Model
from bort.finetuning.heads import arrange_texts, describe_outputs
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.tasks import registry
from bort.text.tokenizer import train_tokenizer

LONG = "river stone lamp " * 200


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A masked LM, a classifier of one text and one of pairs, each as it is and as ONNX."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([f"the river of line {k}, and so on." for k in range(60)], 320)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=2048, positions=512)
    for name, task, head in (
        ("mlm", None, "linear"),
        ("one", "glue/sst2", "linear"),
        ("pairs", "glue/rte", "linear"),
        ("towers", "superglue/boolq", "towers"),
    ):
        model = build_model(sizes, "paper", 0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3, generator=generator)
        labels = None
        if task:
            model = add_head(model, task, 512, head)
            labels = describe_outputs(arrange_texts(registry.find_task(task), head))
            model.out.weight.data.mul_(50)
        save_model(model, tokenizer, root / name, labels)
        export.export(str(root / name), "onnx", root / f"{name}.onnx")
    return root


REFUSED = [
    ("one", "a text", r"predict takes a list of texts; write predict\(\[text\]\)"),
    ("one", None, r"predict takes a list of texts; write predict\(\[text\]\)"),
    ("one", [3], "3 is no text and no pair of texts"),
    ("one", [{"text": "a"}], "is no text and no pair of texts"),
    ("one", [("a", "b", "c")], "3 texts are given, it takes one or two"),
    ("one", [("a", "b")], "the model was fine-tuned on one text"),
    ("one", ["fine", "\ud83d"], "row 2: '.ud83d' has half a character"),
    ("pairs", ["a"], "the model was fine-tuned on pairs of texts"),
    ("towers", [("a", "b"), "a"], "row 2: the model was fine-tuned on pairs of texts"),
    ("towers", [("a", "\ud83d")], "'.ud83d' has half a character"),
    ("mlm", ["no mask"], "'no mask' has no <mask> to fill"),
    ("mlm", ["a <mask>", LONG], "row 2: 'river .*'… has no <mask> to fill"),
    ("mlm", [f"{LONG}a <mask> here"], "the mask lies beyond the 512 tokens that fit: 'river"),
    ("mlm", [f"<mask> {LONG}a <mask> here"], "the mask lies beyond the 512 tokens that fit"),
    ("mlm", [(LONG, f"{LONG}<mask>")], "the mask lies beyond the 512 tokens that fit"),
]


@pytest.mark.parametrize(("name", "texts", "message"), REFUSED)
def test_both_predictors_refuse_the_same_in_one_short_line(folders, name, texts, message):
    lines = []
    for predict, kind in (
        (bort.load(folders / name).predict, BortError),
        (Model(folders / f"{name}.onnx").predict, Mistake),
    ):
        with pytest.raises(kind, match=message) as error:
            predict(texts)
        lines.append(str(error.value))
    assert lines[0] == lines[1] and "\n" not in lines[0] and len(lines[0]) < 180


@pytest.mark.parametrize("name", ["mlm", "one", "pairs", "towers"])
def test_both_predictors_answer_the_same(folders, name):
    """In order, whatever the lengths, and nothing to nothing."""
    both = bort.load(folders / name), Model(folders / f"{name}.onnx")
    texts = [f"{k} <mask> of the river" + LONG[: k * k * 3] for k in range(37)]
    if name == "towers":  # each text is cut by itself, beside a longer or a shorter one
        texts = [(text, LONG[:k] * (k % 3)) for k, text in enumerate(texts)] + [("", LONG * 3)]
    if name == "pairs":  # one with an empty text is a pair too
        texts = [(text, "and so on") for text in texts] + [("a river", ""), ("", "")]
    ours, theirs = (predictor.predict(texts) for predictor in both)
    for mine, other in zip(ours, theirs, strict=True):
        if name == "mlm":
            scores = [[w["score"] for w in a["words"][0]] for a in (mine, other)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-4)
        else:
            assert mine["label"] == other["label"]
            assert mine["scores"] == pytest.approx(other["scores"], abs=1e-4)
    assert len({json.dumps(answer) for answer in ours}) > 30
    assert [predictor.predict([]) for predictor in both] == [[], []]
    assert [len(list(p.predict(iter(texts[:2])))) for p in both] == [2, 2]


def test_texts_without_an_end_are_answered_as_they_come(folders):
    """Neither predictor reads further ahead than one block."""
    for predictor in (bort.load(folders / "one"), Model(folders / "one.onnx")):
        read = itertools.count()
        answers = predictor.answers(f"line {next(read)}" for _ in itertools.count())
        assert len(list(itertools.islice(answers, 3))) == 3
        assert next(read) <= standalone.BLOCK


MEMORY = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("standalone", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.Model()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = peak()
texts = [f"{k} <mask> " + "river stone lamp " * 176 for k in range(400)]
assert len(model.predict(texts)) == 400
assert len(model.predict([f"{k} <mask>" for k in range(4000)])) == 4000
print(peak() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_memory_of_the_standalone_predictor_stays_flat(folders):
    """400 rows of 3,000 characters; all their logits at once would be 1.7 GB."""
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folders / "mlm.onnx" / "predict.py")],
        **dict(capture_output=True, text=True, timeout=400),
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 300


def test_batches_hold_rows_of_similar_length_and_few_tokens():
    lengths = [3, 500, 4, 512, 5, 499, 6]
    found = list(standalone.form_batches(lengths, most=3, tokens=1000))
    assert found == [[0, 2, 4], [6, 5], [1], [3]]
    assert list(standalone.form_batches([9000], tokens=4096)) == [[0]]
    assert list(standalone.form_batches([])) == []


def test_several_labels_of_one_text(shared, tmp_path):
    """Sigmoids, as transformers' pipeline has them for problem_type multi_label_classification."""
    source = shared / "cases" / "N" / "N07-multilabel" / "model"
    export.export(str(source), "onnx", tmp_path / "out")
    settings = json.loads((source / "config.json").read_text())
    assert settings["problem_type"] == "multi_label_classification"
    (answer,) = Model(tmp_path / "out").predict(["river stone"])
    expected = {"money": 0.688, "sport": 0.477, "art": 0.463}
    assert answer["scores"] == pytest.approx(expected, abs=1e-3) and answer["label"] == "money"


def test_many_words_of_an_answer_are_kept_for_few_texts():
    texts = [str(k) for k in range(3000)]
    for top, size in ((5, 1024), (1000, 102), (10**9, 1)):
        found = list(standalone.split_blocks(texts, top))
        assert len(found[0]) == size and [text for block in found for text in block] == texts


# ------------------------------------------------------------------------------------ command


@pytest.fixture
def call(folders, monkeypatch, tmp_path, capsys):
    """predict.py of a folder with these arguments: its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(standalone.Model.__init__, "__defaults__", (folders / name, 1))
        monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            standalone.main()
        except SystemExit as error:
            code, text = (1, f"{error.code}\n") if isinstance(error.code, str) else (error.code, "")
            print(text, end="", file=sys.stderr)
        return code, *capsys.readouterr()

    return run


def test_files_and_the_standard_input(call, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xc3\xa9\n\nfour")
    (tmp_path / "in.jsonl").write_text('{"text": "a", "pair": "b"}\n')
    code, text, errors = call("one.onnx", "input=in.txt")
    assert (code, errors) == (0, "") and len(text.splitlines()) == 4
    assert call("one.onnx", "-", stdin=b"one\ntwo \xc3\xa9\n\nfour") == (0, text, "")
    code, said, errors = call("one.onnx", "input=in.txt", "out=out.jsonl")
    assert (code, said, errors) == (0, "4 answers: out.jsonl\n", "")
    assert (tmp_path / "out.jsonl").read_text() == text
    assert call("pairs.onnx", "input=in.jsonl")[0] == 0
    (tmp_path / "in.TXT.gz").write_bytes(gzip.compress((tmp_path / "in.txt").read_bytes()))
    assert call("one.onnx", "input=in.TXT.gz") == (0, text, "")
    pair = call("pairs.onnx", "input=in.jsonl")
    (tmp_path / "in.jsonl.xz").write_bytes(lzma.compress((tmp_path / "in.jsonl").read_bytes()))
    assert call("pairs.onnx", "input=in.jsonl.xz") == pair
    (tmp_path / "out.jsonl").chmod(0o600)
    call("one.onnx", "a text", "out=out.jsonl")
    assert (tmp_path / "out.jsonl").stat().st_mode & 0o777 == 0o600
    assert len(json.loads(call("mlm.onnx", "a <mask>", "top=3")[1])["words"][0]) == 3
    assert len(json.loads(call("mlm.onnx", "a <mask>", "top=99999")[1])["words"][0]) == 2048
    assert json.loads(call("one.onnx", "")[1])["label"]  # an empty text is a text
    code, text, errors = call("one.onnx", "--help")
    assert code == 0 and "input=texts.txt" in text and errors == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a text, or input=FILE, or - for the standard input"),
        (["a", "input=in.txt"], "give a text, or input=FILE"),
        (["--halp"], "--halp is not an option"),
        (["a", "top=x"], "top='x' is no number of words"),
        (["a", "top=3"], "top= is for a masked language model"),
        (["input=in.txt", "out=in.txt"], "out=in.txt is the input"),
        (["input=in.txt", "out=."], "out=. is a folder"),
        (["input=in.txt", "out=~no-user/x"], "out=~no-user/x: there is no home folder"),
        (["input=in.txt", "out=in.txt/x"], "out=in.txt/x cannot be written: "),
        (["input=missing.txt"], "input=missing.txt: No such file"),
        (["input=empty.txt"], "input=empty.txt is empty"),
        (["input=wide.txt"], "input=wide.txt has a NUL byte in line 1, as UTF-16 has"),
        (["input=mark.txt"], "input=mark.txt is empty"),
        (["input=in.txt", "out=/dev/full"], "out=/dev/full cannot be written: No space left"),
        (["input=t.CSV"], "give a .txt file with a text per line"),
        (["input=t.csv.gz"], "give a .txt file with a text per line"),
        (["input=t.jsonl.zst"], "input=t.jsonl.zst: predict.py cannot unpack it; unpack it by"),
        (["input=cut.txt.gz"], "input=cut.txt.gz is cut: its .gz data ends too early"),
        (["input=cut.txt.xz"], "input=cut.txt.xz is cut: its .xz data ends too early"),
        (["input=bad.txt.gz"], "input=bad.txt.gz is damaged, or no .gz file"),
        (["input=bad.txt.xz"], "input=bad.txt.xz is damaged, or no .xz file"),
        (["input=none.txt.gz"], "input=none.txt.gz is empty"),
        (["input=missing.txt.xz"], "input=missing.txt.xz: No such file"),
        (["input=latin.txt"], "input=latin.txt is not UTF-8 at byte 6 (line 2)"),
        (["input=bad.jsonl"], "input=bad.jsonl line 2 is no object with the key text"),
        (["input=half.jsonl"], "row 2: '\\ud83d' has half a character"),
        (["x" * 5000, "y" * 5000], "the model was fine-tuned on one text"),
    ],
)
def test_a_mistake_is_one_line(call, tmp_path, arguments, message):
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "wide.txt").write_bytes("a text".encode("utf-16-le"))
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbf")
    (tmp_path / "latin.txt").write_bytes(b"one\nca\xff\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n[1]\n')
    (tmp_path / "half.jsonl").write_text('{"text": "x"}\n{"text": "\\ud83d"}\n')
    for pack, name in ((gzip.compress, "gz"), (lzma.compress, "xz")):
        packed = pack(b"one\n" * 9000)
        (tmp_path / f"cut.txt.{name}").write_bytes(packed[: len(packed) // 2])
        (tmp_path / f"bad.txt.{name}").write_bytes(b"no archive")
    (tmp_path / "none.txt.gz").write_bytes(b"")
    before = {path.name for path in tmp_path.iterdir()}
    code, _, errors = call("one.onnx", *arguments)
    assert code == 1 and errors.startswith(f"predict.py: {message}") or message in errors
    assert errors.count("\n") == 1 and len(errors) < 200
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "in.txt").read_text() == "one\n"


@pytest.mark.parametrize(("name", "arguments"), [("stdin", "-"), ("stdout", "a text")])
def test_streams_that_are_closed_are_one_line(call, monkeypatch, name, arguments):
    """As `predict.py - <&-` and `>&-` close them."""
    closed = types.SimpleNamespace(stdin=sys.stdin, stdout=sys.stdout, argv=["", arguments])
    setattr(closed, name, None)
    monkeypatch.setattr(standalone, "sys", closed)
    model = types.SimpleNamespace(kind="", answers=lambda texts, top: texts)
    monkeypatch.setattr(standalone, "Model", lambda: model)
    with pytest.raises(SystemExit, match=f"there is no standard {name[3:]}put"):
        standalone.main()


def test_answers_on_a_screen_that_lacks_letters_are_still_json():
    """JSON has an escape for each of them."""
    answer = {"label": "😀 Straße", "score": 0.5}
    assert standalone.to_json_line(answer, "utf-8") == '{"label": "😀 Straße", "score": 0.5}'
    line = standalone.to_json_line(answer, "cp1252")
    assert json.loads(line.encode("cp1252")) == answer


def test_a_damaged_folder_is_one_line(folders, tmp_path):
    for name in ("config.json", "tokenizer.json", "model.onnx"):
        for source in (folders / "one.onnx").iterdir():
            (tmp_path / source.name).write_bytes(source.read_bytes())
        (tmp_path / name).write_bytes(b"{")
        with pytest.raises(Mistake, match="cannot be"):
            Model(tmp_path)
