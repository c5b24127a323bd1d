"""A distillation from its settings to its folder: what it learns, resumes and refuses."""

import json

import pytest
from sklearn.metrics import accuracy_score
from tiny_runs import log_lines, stopping

from bort.cli.composing import compose_command
from bort.cli.jobs import run_job
from bort.errors import BortError
from bort.finetuning.judge import open_judge
from bort.finetuning.recipe import finetune
from bort.models.huggingface import load_classifier
from bort.report import write_page
from bort.runs.closing import print_result
from bort.task_distillation import recipe
from bort.task_distillation.recipe import distill_task, is_encoder
from bort.tasks.custom import define_task
from bort.tasks.reading import load_task


@pytest.fixture(scope="module")
def done(run_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("done") / "run"
    return folder, distill_task(run_of(), folder)


def read_answers(folder) -> list[dict]:
    lines = (folder / "predictions" / "val.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_student_learns_the_answers_of_its_teacher(done, run_of, teacher):
    """From labels that are all wrong, it would learn the contrary."""
    folder, summary = done
    task, rows = load_task("custom", run_of().data)
    judge = open_judge(task, str(teacher), 32, "cpu")
    right = [row.label for row in rows["val"]]
    expected = accuracy_score(right, judge(rows["val"]).argmax(-1))
    assert summary["teacher/val/accuracy"] == pytest.approx(expected)
    assert summary["val/accuracy"] > 0.9 and summary["teacher"] == str(teacher)
    assert (summary["labelled_rows"], summary["unlabelled_rows"]) == (40, 60)
    assert summary["steps"] == 6 * 13  # 100 rows in batches of 8


def test_true_labels_count_only_with_a_weight(run_of, table, tmp_path):
    """The labels of train.csv are turned around: a student of S alone does not notice."""
    text = (table / "train.csv").read_text()
    swapped = text.replace(",cat", ",?").replace(",dog", ",cat").replace(",?", ",dog")
    path = tmp_path / "train.csv"
    path.write_text(swapped)
    words = [f"data.train={path}", "distill.guard=-1"]
    taught = distill_task(run_of(*words), tmp_path / "taught")
    told = distill_task(run_of(*words, "distill.w_kd=0", "distill.w_ce=1"), tmp_path / "told")
    assert taught["val/accuracy"] > 0.9 and told["val/accuracy"] <= 0.5


def test_what_is_printed_and_on_the_page(done, run_of, teacher):
    folder, summary = done
    lines = log_lines()
    print_result(run_of(), folder, summary, "kd_finetune")
    score = f"{summary['teacher/val/accuracy']:.4f}"
    line = f"  teacher   val/accuracy {score} ({teacher})"
    assert line in lines
    write_page(folder)
    page = (folder / "report.html").read_text()
    assert "val/accuracy of the teacher" in page and "unlabelled rows" in page
    assert f"pool.txt, taught by {teacher}</p>" in page


def test_a_stopped_run_ends_with_the_same_model(run_of, done, tmp_path, monkeypatch):
    train = recipe.train_classifier

    def stop(run, *inputs):
        return train(stopping(run, 20), *inputs)

    monkeypatch.setattr(recipe, "train_classifier", stop)
    with pytest.raises(SystemExit):
        distill_task(run_of(), tmp_path / "run")
    monkeypatch.undo()
    distill_task(run_of(), tmp_path / "run")
    for name in ("model/model.safetensors", "predictions/val.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (done[0] / name).read_bytes()
    monkeypatch.setattr(recipe, "train_classifier", lambda *_: pytest.fail("trained again"))
    assert distill_task(run_of(), done[0]) == done[1]


def test_an_encoder_is_fine_tuned_first(run_of, encoder, of_table, tmp_path, teacher):
    """By the same command as the user would give, and only once."""
    run = run_of(f"teacher.name={encoder}", "distill.guard=-1")
    summary = distill_task(run, tmp_path / "run")
    kept = tmp_path / "run" / "teacher"
    facts = json.loads((kept / "summary.json").read_text())
    assert summary["teacher/val/accuracy"] == pytest.approx(facts["val/accuracy"])
    settings = json.loads((kept / "settings.json").read_text())
    assert (settings["job"], settings["model"]) == ("finetune", str(encoder))
    assert facts["steps"] == 3 * 3  # three epochs of 40 rows in batches of 16
    before = (kept / "summary.json").stat().st_mtime_ns
    (tmp_path / "run" / "summary.json").unlink()
    distill_task(run, tmp_path / "run")
    assert (kept / "summary.json").stat().st_mtime_ns == before


def test_which_teachers_are_encoders(encoder, teacher):
    task = define_task("custom", "classes", ("text",), ("cat", "dog"))
    assert is_encoder(task, str(encoder)) and not is_encoder(task, str(teacher))
    other = define_task("custom", "classes", ("text",), ("no", "yes"))
    with pytest.raises(BortError, match=r"has the labels cat, dog, custom needs no, yes"):
        is_encoder(other, str(teacher))


def test_numbers(run_of, compose_run, table, encoder, tmp_path):
    """A regression learns the teacher's numbers; S is not compared with a most frequent one."""
    names = {}
    for name in ("train", "val"):
        lines = (table / f"{name}.csv").read_text().splitlines()[1:]
        rows = [line.replace(",cat", ",1.5").replace(",dog", ",-20.5") for line in lines]
        names[name] = tmp_path / f"{name}.csv"
        names[name].write_text("\n".join(["text,label", *rows]))
    files = [f"data.{name}={path}" for name, path in names.items()] + ["data.kind=number"]
    plain = ["experiment=finetune", f"model={encoder}", "task=custom", *files]
    finetune(compose_run(*plain, "trainer.max_epochs=8"), tmp_path / "s")
    run = run_of(*files, f"teacher.name={tmp_path / 's'}", "trainer.max_epochs=12")
    summary = distill_task(run, tmp_path / "run")
    assert summary["teacher/val/r2"] > 0.5 and summary["val/r2"] > 0.5
    model, _ = load_classifier(tmp_path / "run" / "model")
    assert model.scale is not None


def list_sets(text: str) -> dict:
    """A row whose labels are the words in it, out of three."""
    return {"text": text, "tags": [word for word in ("purr", "meow", "bark") if word in text]}


@pytest.fixture(scope="module")
def of_sets(table, tmp_path_factory) -> list[str]:
    """The texts of the table with any number of labels each."""
    folder = tmp_path_factory.mktemp("sets")
    for name in ("train", "val"):
        texts = [line.split(",")[0] for line in (table / f"{name}.csv").read_text().split("\n")[1:]]
        rows = [json.dumps(list_sets(text)) for text in texts]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    files = [f"data.{name}={folder / name}.jsonl" for name in ("train", "val")]
    return [*files, "data.label=tags"]


@pytest.fixture(scope="module")
def teacher_of_sets(of_sets, compose_run, encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher_of_sets") / "run"
    plain = ["experiment=finetune", f"model={encoder}", "task=custom", *of_sets, "head=mean"]
    finetune(compose_run(*plain, "trainer.max_epochs=16"), folder)
    return folder


@pytest.mark.parametrize("kd_loss", ["mse", "kl"])
def test_several_labels_a_row(run_of, of_sets, teacher_of_sets, tmp_path, kd_loss):
    """The pool has no labels at all; S is scored, and the student answers lists of labels."""
    words = [*of_sets, f"teacher.name={teacher_of_sets}", f"distill.kd_loss={kd_loss}", "head=mean"]
    words += ["distill.w_ce=0.5", "trainer.max_epochs=12"]
    summary = distill_task(run_of(*words), tmp_path / "run")
    assert summary["teacher/val/micro_f1"] > 0.8 and summary["unlabelled_rows"] == 60
    assert summary["val/micro_f1"] > 0.8 > summary["majority/val/micro_f1"]
    model, labels = load_classifier(tmp_path / "run" / "model")
    assert model.multi_label and set(labels.values()) == {"purr", "meow", "bark"}
    assert all(
        set(line["labels"]) <= set(line["scores"]) for line in read_answers(tmp_path / "run")
    )


def test_a_teacher_of_several_labels_that_is_no_better_than_one_answer(
    run_of, of_sets, teacher_of_sets, teacher, tmp_path
):
    """Each label of each row counts; most rows have none, so one answer is right in most."""
    words = [*of_sets, f"teacher.name={teacher_of_sets}", "distill.guard=0.9"]
    line = r"is right in [\d.]+ of 60 labels, the most frequent label in 0\.[78]\d+; give a better"
    with pytest.raises(BortError, match=line):
        distill_task(run_of(*words), tmp_path / "run")
    with pytest.raises(BortError, match="gives one label a row, custom needs any number"):
        distill_task(run_of(*of_sets, f"teacher.name={teacher}"), tmp_path / "other")


def test_a_teacher_that_is_no_better_than_one_answer(run_of, encoder, tmp_path):
    """By hand: half of the rows are cats, so one answer is right in half of them."""
    words = [f"teacher.name={encoder}", "distill.guard=0.6"]
    line = r"teacher.name=\S+ is right in [\d.]+ of 20 rows, the most frequent label in 0.500; give"
    with pytest.raises(BortError, match=line):
        distill_task(run_of(*words), tmp_path / "run")


def test_mistakes(run_of, tmp_path, student, of_table):
    with pytest.raises(BortError, match="absent.txt is not there"):
        distill_task(run_of("data.unlabelled=absent.txt"), tmp_path / "run")
    with pytest.raises(BortError, match="experiment=kd_finetune needs teacher.name=FOLDER"):
        run_of("teacher.name=null")
    with pytest.raises(BortError, match="trains on one device; use trainer.devices=1"):
        run_of("trainer.devices=2")
    assert not (tmp_path / "run").exists()


def test_teacher_and_student_read_long_texts_in_windows(run_of, compose_run, encoder, tmp_path):
    """The word that tells the label is at the end, where a cut text has lost it."""
    filler = " ".join(f"line {k} and" for k in range(9))
    for name, count in {"train": 20, "val": 10}.items():
        labels = [("cat", "dog")[k % 2] for k in range(2 * count)]
        last = {"cat": "purr and meow", "dog": "bark and woof"}
        rows = [
            {"text": f"{filler} {last[label]} {k}", "label": label}
            for k, label in enumerate(labels)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"data.{name}={tmp_path / name}.jsonl" for name in ("train", "val")]
    words += ["task=custom", "data.length=24", "data.windows=mean", "head=mean"]
    words += ["trainer.max_epochs=12", "trainer.check_val_every_n_epoch=12"]
    s = finetune(
        compose_run("experiment=finetune", f"model={encoder}", *words), tmp_path / "teacher"
    )
    assert s["data/train/divided"] == 40 and s["val/accuracy"] == 1.0
    words += [f"teacher.name={tmp_path / 'teacher'}", "data.unlabelled=null"]
    summary = distill_task(run_of(*words), tmp_path / "run")
    assert summary["teacher/val/accuracy"] == 1.0 and summary["val/accuracy"] == 1.0


def test_three_rates_are_tried_on_the_answers_of_the_teacher(run_of, tmp_path):
    """On labelled rows that are held out; the pool is learnt, too."""
    lines = log_lines()
    rows = [f"{('purr', 'bark')[k % 2]} in row {k},{('cat', 'dog')[k % 2]}" for k in range(60)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]))
    run = run_of("optim.lr=auto", f"data.train={tmp_path / 'train.csv'}", "trainer.max_epochs=2")
    summary = distill_task(run, tmp_path / "run")
    assert "rate: three are tried on " in "".join(lines)
    scores = {key: value for key, value in summary.items() if key.startswith("rates/")}
    assert sorted(scores) == ["rates/0.002", "rates/0.004", "rates/0.008"]
    assert summary["lr"] in (0.002, 0.004, 0.008)
    assert scores[f"rates/{summary['lr']:g}"] == max(scores.values())


def test_the_last_line_of_the_command_says_what_to_ship(
    student, teacher, of_table, tmp_path, monkeypatch
):
    """Also where the run is finished, and nothing is trained."""
    monkeypatch.chdir(tmp_path)
    words = ["experiment=kd_finetune", f"model={student}", f"teacher.name={teacher}", *of_table]
    words += ["trainer=cpu", "trainer.precision=32-true", "trainer.max_epochs=1", "name=taught"]
    words += ["data.length=32"]
    for _ in range(2):
        lines = log_lines()
        with compose_command("train", words) as (settings, hydra):
            run_job(settings, hydra, tmp_path / "run")
        assert lines[-1].startswith("ship: ") and "the teacher's" in lines[-1]
        assert sum(line.startswith("ship: ") for line in lines) == 1
