"""Scores of answers to labelled tables: by hand, by the metrics of the training, and mistakes."""

import json

import pandas
import pytest
import torch

import bort
from bort.config.command_line import parse_command
from bort.errors import BortError
from bort.models.bert import Classifier
from bort.models.huggingface import load_classifier, load_tokenizer, save_model
from bort.predict.run import main
from bort.predict.scores import ScoreSheet
from bort.predict.settings import PredictConfig
from bort.predictor import Predictor

TEXTS = [f"line {k} has {k % 5} words" for k in range(12)]


def predict(*words: str) -> None:
    main(parse_command(PredictConfig, list(words)))


@pytest.fixture
def biased(folders, tmp_path):
    """A model of three classes that answers more than one of them."""
    model, _ = load_classifier(str(folders["classes"]))
    tokenizer = load_tokenizer(folders["classes"])
    names = {str(k): f"class {k}" for k in range(3)}
    predictor = Predictor(model, tokenizer, dict(enumerate(names.values())))
    scores = [list(answer["scores"].values()) for answer in predictor.predict(TEXTS)]
    with torch.no_grad():  # the medians of the logits become equal
        model.out.bias -= torch.tensor(scores).log().median(0).values
    save_model(model, tokenizer, tmp_path / "biased", {"id2label": names})
    answers = [row["label"] for row in bort.load(tmp_path / "biased").predict(TEXTS)]
    assert len(set(answers)) > 1
    return tmp_path / "biased", answers


def test_accuracy_and_f1_by_hand(biased, tmp_path, capsys):
    """Eight labels of twelve are the answers; the four others are the next class."""
    model, answers = biased
    following = {"class 0": "class 1", "class 1": "class 2", "class 2": "class 0"}
    labels = [name if k % 3 else following[name] for k, name in enumerate(answers)]
    path = tmp_path / "in.csv"
    pandas.DataFrame({"text": TEXTS, "label": labels}).to_csv(path, index=False)
    predict(f"model={model}", f"input={path}", "score=true")
    shown = capsys.readouterr().out
    f1 = []
    for name in ("class 0", "class 1", "class 2"):
        both = sum(a == b == name for a, b in zip(answers, labels, strict=True))
        f1.append(2 * both / max(1, answers.count(name) + labels.count(name)))
    assert "score: accuracy 0.6667, macro_f1 " in shown and "(12 rows)" in shown
    assert shown.count("\n") <= 2  # no answers on the screen, at most a doubt
    assert len({*answers, *labels}) == 3
    assert f"macro_f1 {sum(f1) / 3:.4f}" in shown
    predict(f"model={model}", f"input={path}", "score=true", f"out={tmp_path}/out.jsonl")
    assert "score: accuracy 0.6667" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["answer"]["label"] for row in rows] == answers
    assert [row["label"] for row in rows] == labels


def test_numbers_with_decimal_commas(folders, tmp_path, capsys):
    """The answers themselves, a half added: r² by its definition, rmse 0.5."""
    answers = [row["score"] for row in bort.load(folders["number"]).predict(TEXTS)]
    frame = pandas.DataFrame({"text": TEXTS, "price": [round(a + 0.5, 6) for a in answers]})
    frame.to_csv(tmp_path / "in.csv", index=False, sep=";", decimal=",")
    words = f"model={folders['number']}", f"input={tmp_path}/in.csv", "score=true", "label=price"
    predict(*words)
    mean = sum(answers) / len(answers)
    r2 = 1 - 0.25 * len(answers) / sum((a - mean) ** 2 for a in answers)
    shown = capsys.readouterr().out
    assert f"r2 {r2:.4f}"[:9] in shown and "rmse 0.5000" in shown and "pearson 1.0000" in shown


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        ("classes", ["class 0", "class 9"], "line 3: label 'class 9' is none of the model's"),
        ("classes", ["class 0", "Class 1"], "line 3: label 'Class 1' is none of the model's"),
        ("classes", ["class 0", ""], "line 3: no 'label'; fix or drop the row"),
        ("number", ["1", "many"], "line 3: 'label' is 'many', not a number"),
        ("number", ["1", "1,5"], "line 3: 'label' is '1,5', not a number"),
        ("masked", ["1", "2"], "score=true is for a model that answers with classes or numbers"),
    ],
)
def test_labels_that_are_mistakes(folders, tmp_path, monkeypatch, model, labels, message):
    """They are told before the first answer."""
    path = tmp_path / "in.csv"
    pandas.DataFrame({"text": ["a", "b"], "label": labels}).to_csv(path, index=False)
    monkeypatch.setattr(Predictor, "answers", lambda *_, **__: pytest.fail("answered"))
    with pytest.raises(BortError, match=message):
        predict(f"model={folders[model]}", f"input={path}", "score=true")
    with pytest.raises(BortError, match="no column 'stars'.*set label=COLUMN"):
        predict(f"model={folders[model]}", f"input={path}", "score=true", "label=stars")


class Answering(Predictor):
    """A model of which only the kind of its answers matters."""

    def __init__(self, outputs: int, labels: tuple[str, ...], multi_label: bool = False):
        self.model = Classifier.__new__(Classifier)
        torch.nn.Module.__init__(self.model)
        self.model.out = torch.nn.Linear(2, outputs)
        self.labels, self.multi_label = dict(enumerate(labels)), multi_label


def test_tasks_of_a_suite_have_their_own_metrics_and_spellings():
    """MRPC: F1 of class 1 and accuracy; its files say 1 and 0, its models equivalent or not."""
    from bort.tasks.registry import TASKS

    mrpc = TASKS["glue/mrpc"]
    sheet = ScoreSheet.make(Answering(2, mrpc.labels), "glue/mrpc", ("Quality",))
    truth, answers = (1, 1, 0, 1), (1, 0, 0, 1)
    for label, answer in zip(truth, answers, strict=True):
        cells = {"Quality": str(mrpc.spelled[label])}
        sheet.add("here", cells, {"label": mrpc.labels[answer]})
    assert sheet.report(False) == pytest.approx({"f1": 0.8, "accuracy": 0.75})
    other = ScoreSheet.make(Answering(2, ("a", "b")), "glue/mrpc", ("Quality",))
    assert other.task.name == "custom" and other.task.labels == ("a", "b")
    sheet = ScoreSheet.make(Answering(1, ("LABEL_0",)), "glue/stsb", ("score",))
    assert sheet.task.name == "glue/stsb"


@pytest.mark.parametrize("columns", [("tags",), ("art", "sport")])
def test_labels_of_which_a_row_has_any_number(columns):
    """Of four decisions three are right: two labels are answered, one of them truly."""
    sheet = ScoreSheet.make(Answering(2, ("art", "sport"), True), "custom", columns)
    rows = [(["art"], ["art", "sport"]), ([], [])]
    for true, labels in rows:
        cells = {"tags": true, "art": str(int("art" in true)), "sport": 0}
        sheet.add("here", cells, {"labels": labels})
    scores = sheet.report(False)
    assert scores["exact_match"] == 0.5 and scores["micro_f1"] == pytest.approx(2 / 3)
    for cells in ({"tags": "art", "art": "x", "sport": "0"}, {"art": None, "sport": "0"}):
        with pytest.raises(BortError, match="no list of labels|not 0 or 1"):
            sheet.read_label("here", cells, False)
