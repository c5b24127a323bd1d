"""A search on a task: errors against Hugging Face in float64, its bound, and what is refused."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from composed_settings import composed
from tiny_runs import counting, log_lines, plan_of, sweep, table
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bort.config.search import SearchRunConfig, TaskSearchConfig
from bort.config.unused import RULES, refuse_unused
from bort.errors import BortError
from bort.finetuning.recipe import finetune
from bort.models.bert import ModelConfig
from bort.models.huggingface import save_model
from bort.models.initialization import build_model
from bort.search.answers import NO_W
from bort.search.sweep import open_sweep
from bort.text.tokenizer import train_tokenizer
from bort.trials import task as task_trials
from bort.trials.records import read_records

ROOT = Path(__file__).resolve().parents[2]
WORDS = {"cat": "purr meow claw paw whisker".split(), "dog": "bark woof wag howl fetch".split()}
GRID = "grid={depth: [1], hidden: [16, 32], head_size: 16, intermediate: [32], ratio: null}"
COUNT = 220


def list_rows(count: int) -> list[tuple[str, str]]:
    """Texts whose words tell their kind, of which one in ten has the other kind's label."""
    rows = []
    for k in range(count):
        kind = ("cat", "dog")[k % 2]
        label = kind if k % 10 else ("dog", "cat")[k % 2]
        rows.append((f"{WORDS[kind][k // 2 % 5]} {k} {WORDS[kind][k // 10 % 5]}", label))
    return rows


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "train.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *list_rows(COUNT)])
    (path.parent / "pool.txt").write_text(
        "\n".join(f"{word} with {other} at {k}" for k in range(3) for word in WORDS["cat"]
                  for other in WORDS["dog"])
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def teacher(rows_file, tmp_path_factory) -> Path:
    """S: fine-tuned on the rows."""
    folder = tmp_path_factory.mktemp("s")
    tokenizer = train_tokenizer([text for text, _ in list_rows(COUNT)], 320)
    sizes = ModelConfig(2, 2, 32, 64, vocab_size=320, positions=512)
    save_model(build_model(sizes, "default", 0), tokenizer, folder / "encoder")
    words = ["experiment=finetune", f"model={folder / 'encoder'}", "task=custom", "trainer=cpu"]
    words += [f"data.train={rows_file}", "data.length=32", "optim.lr=1e-2"]
    words += ["trainer.precision=32-true", "trainer.max_epochs=3"]
    finetune(composed(*words), folder / "run")
    return folder / "run" / "model"


@pytest.fixture(scope="module")
def given(rows_file, teacher) -> list[str]:
    """The overrides of a search of two candidates, of eight steps each."""
    return [
        *("search.proxy=task", "task=custom", f"data.train={rows_file}", f"teacher.name={teacher}"),
        *(GRID, "latency=analytic", "search.n=8", "search.max_latency_share=1"),
        *("search.finalists=1", "search.seeds=2", "data.length=32", "data.batch_size=8"),
        *("trainer=cpu", "trainer.precision=32-true"),
    ]


@pytest.fixture(scope="module")
def search_of(given):
    def make(*overrides: str) -> TaskSearchConfig:
        return composed(*given, *overrides, of=SearchRunConfig)

    return make


@pytest.fixture(scope="module")
def done(search_of, rows_file, tmp_path_factory):
    """A search that has ended, on a pool too: its settings, folder, summary and lines."""
    run = search_of(f"data.unlabelled={rows_file.with_name('pool.txt')}")
    folder, lines = tmp_path_factory.mktemp("search") / "run", log_lines()
    return run, folder, sweep(run, folder), lines


def answer_by_hand(folder: Path, texts: list[str], names: list[str]) -> torch.Tensor:
    """The log-probabilities of a folder's model by Hugging Face in float64, in the names' order."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    order, rows = [model.config.label2id[name] for name in names], []
    with torch.no_grad():
        for text in texts:
            logits = model(**tokenizer(text, return_tensors="pt")).logits
            rows.append(logits[0, order].log_softmax(-1))
    return torch.stack(rows)


def test_errors_are_cross_entropies_by_hugging_face(done, teacher):
    run, folder, summary, _ = done
    lesson = task_trials.open_lesson(run, folder)
    held = lesson.examples.rows["val"]
    texts, names = [row.texts[0] for row in held], list(lesson.examples.task.labels)
    assert 15 < len(held) < 30 and set(texts) < {text for text, _ in list_rows(COUNT)}
    by_teacher = answer_by_hand(teacher, texts, names)
    entropy = -(by_teacher.exp() * by_teacher).sum(-1)
    plan = json.loads((folder / "search.json").read_text())
    assert plan["teacher"]["error"] == pytest.approx(float(entropy.mean()), abs=1e-5)
    assert plan["positions"] == plan["documents"] == len(held)
    records = read_records(folder)
    assert len(records) == 3  # two candidates, and a further seed of the better one
    for record in records:
        trial = folder / record.job.folder
        answers = answer_by_hand(trial / "model", texts, names)
        expected = -(by_teacher.exp() * answers).sum(-1)
        assert np.load(trial / "losses.npy") == pytest.approx(expected.numpy(), abs=1e-4)
        assert record.error == pytest.approx(float(expected.mean()), abs=1e-5)
        assert record.error > float(entropy.mean())  # which S alone reaches
    assert summary["proxy"] == "task" and summary["teacher_error"] == plan["teacher"]["error"]


def test_one_constant_answer_is_the_baseline(done, teacher):
    """That of S's mean distribution over what is learnt, the pool's rows included."""
    run, folder, summary, _ = done
    lesson = task_trials.open_lesson(run, folder)
    names = list(lesson.examples.task.labels)
    learnt, held = (
        answer_by_hand(teacher, [row.texts[0] for row in lesson.examples.rows[split]], names)
        for split in ("train", "val")
    )
    expected = -(held.exp() * learnt.exp().mean(0).log()).sum(-1).mean()
    assert len(learnt) > COUNT and summary["unigram_error"] == pytest.approx(
        float(expected), abs=1e-5
    )


def test_held_out_rows_are_not_learnt(done):
    run, folder, _, _ = done
    examples = task_trials.open_lesson(run, folder).examples
    texts = {split: {row.texts for row in rows} for split, rows in examples.rows.items()}
    assert not texts["train"] & texts["val"]
    labelled = [row for row in examples.rows["train"] if row.label is not None]
    for_scores = COUNT // 10  # data.val is not given
    assert len(labelled) + len(examples.rows["val"]) == COUNT - for_scores
    assert len(examples.rows["train"]) - len(labelled) == 75  # of the pool


def test_the_same_command_trains_nothing_again(done, monkeypatch):
    run, folder, summary, _ = done
    monkeypatch.setattr(task_trials, "train_student", lambda *_: pytest.fail("trained again"))
    assert sweep(run, folder) == summary


def test_a_candidate_is_trained_again_bit_by_bit(done):
    run, folder, summary, _ = done
    (record, *_) = read_records(folder)
    (folder / record.job.folder / "point.json").unlink()
    (folder / record.job.folder / "summary.json").unlink()
    again = sweep(run, folder)
    clocks = ("seconds", "wall")
    assert {k: v for k, v in again.items() if k not in clocks} == {
        k: v for k, v in summary.items() if k not in clocks
    }
    assert [record.losses] == [r.losses for r in read_records(folder) if r.job == record.job]


def test_other_rows_than_it_began_with_are_refused(done, rows_file, search_of, tmp_path):
    run, folder, _, _ = done
    other = tmp_path / "train.csv"
    other.write_text(rows_file.read_text().replace("whisker", "tail"))
    changed = search_of(f"data.train={other}")
    with pytest.raises(BortError, match="data.train"), open_sweep(changed, folder):
        pass


def test_against_labels_nothing_bounds_an_error(search_of, tmp_path):
    """With w_kd=0, e is the cross-entropy of the labels, whose entropy is 0."""
    run = search_of("distill.w_kd=0", "distill.w_ce=1", "search.seeds=1")
    summary = sweep(run, tmp_path / "run")
    lesson = task_trials.open_lesson(run, tmp_path / "run")
    names, held = list(lesson.examples.task.labels), lesson.examples.rows["val"]
    for record in read_records(tmp_path / "run"):
        model = tmp_path / "run" / record.job.folder / "model"
        answers = answer_by_hand(model, [row.texts[0] for row in held], names)
        expected = -answers[range(len(held)), [row.label for row in held]].mean()
        assert record.error == pytest.approx(float(expected), abs=1e-5)
    assert summary["teacher_error"] == 0 and (tmp_path / "run" / "optimum.yaml").exists()


def test_flops_are_those_of_the_counter(search_of, done, tmp_path):
    """Of a training and of the pass over the held-out rows, but for the head's few."""
    # so many steps that the start, which projects T's embeddings, is a small part
    run = search_of("search.n=60", "optim=adamw", GRID.replace("[16, 32]", "[32]"))
    with open_sweep(run, tmp_path / "run") as opened:
        (job,) = opened.ask()
        with counting() as counter:
            record = task_trials.train_candidate(
                job.apply(opened.run), job, opened.plan, tmp_path / "run"
            )
    counted = counter.get_total_flops()
    # what is validated at the end of the training is read once more for the error
    held = task_trials.open_lesson(run, tmp_path / "run")
    text = task_trials.measure_text(task_trials.make_batches(held.examples, "val"))
    further = task_trials.count_states_flops(job.xi, text)
    assert counted == pytest.approx(record.flops + further, rel=0.03)


def test_what_is_said_and_shown_of_it(done):
    _, folder, summary, lines = done
    assert (summary["w_optimum"], summary["w_optimum_note"]) == (None, NO_W["task"])
    assert f"  by W      none: {NO_W['task']}" in lines
    assert any("held-out rows, one constant answer has e " in line for line in lines)
    assert any("T answered each row once" in line for line in lines)
    assert "  latency   batch 1 × 128 tokens" in lines
    (judged,) = [line for line in lines if line.startswith("teacher: ") and "val/accuracy" in line]
    assert judged.endswith("training rows held out of the candidates' training)")
    page = (folder / "report.html").read_text()
    assert "held-out rows, one constant answer alone" in page and "8 rows a candidate" in page
    assert [row["status"] for row in table(folder)].count("trained") == 2


def test_a_dry_run_reads_rows_and_asks_nothing(search_of, monkeypatch):
    monkeypatch.setattr(task_trials, "label_rows", lambda *_: pytest.fail("T was asked"))
    plan = plan_of(search_of())
    assert plan["candidates"].startswith("2 of 2") and plan["bounds"] == f"none: {NO_W['task']}"
    assert plan["rate"].startswith("0.00127 to 0.00201")  # 0.064 / 128 · (H / 128)^-0.67


def test_the_real_command(given, rows_file, teacher, tmp_path):
    """Its candidates are jobs of Hydra, and its last line goes on from the best of them."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    pool = f"data.unlabelled={rows_file.with_name('pool.txt')}"
    words = [*given, pool, "search.seeds=1", "name=first"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "search.py"), *words],
        **dict(cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, timeout=200),
        **dict(capture_output=True, text=True),
    )
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / "search" / "first"
    assert json.loads((folder / "summary.json").read_text())["trained"] == 2
    assert (folder / "optimum.yaml").is_file()
    (command,) = [line for line in result.stdout.splitlines() if line.startswith("  next ")]
    words = shlex.split(command.split("train.py ")[1])
    following = composed(*words)
    assert following.job == "kd_finetune" and following.task == "custom"
    assert (tmp_path / following.model / "model" / "config.json").is_file()
    assert following.teacher.name == str(teacher) and following.data.unlabelled == pool[16:]
    refuse_unused(following, words, RULES)


def test_a_file_of_rows_means_a_task_of_the_users_own(given):
    run = composed(*(word for word in given if word != "task=custom"), of=SearchRunConfig)
    assert run.task == "custom"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["task=null", "data.train=null"], "search.proxy=task needs a task, as in task=glue/sst2"),
        (["teacher.name=null"], "search.proxy=task needs teacher.name=FOLDER, a model that is"),
        (["search.objective=w"], "search.objective=w is for W, and search.proxy=task has none"),
        (["search.halving=true", "search.n=16"], "search.halving continues trainings on text"),
        (["optim.lr=auto"], "optim.lr=auto is for tasks with labels"),
        (["search.proxy=tasks"], "search.proxy=tasks is unknown"),
        (
            ["distill.w_kd=0", "distill.w_ce=0"],
            "distill.w_kd, w_mlm, w_hidden, w_relation and w_ce are all 0",
        ),
    ],
)
def test_settings_that_no_search_on_a_task_can_have(search_of, words, line):
    with pytest.raises(BortError) as error:
        search_of(*words)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("data.mask_rate=0.2", "data.mask_rate=0.2 is for pre-training"),
        ("patience=2", "patience=2 is not read: a candidate of a search takes search.n steps"),
        ("distill.control=true", "distill.control=true is for experiment=kd_finetune"),
        ("distill.w_mlm=1", "distill.w_mlm=1 is for pre-training"),
        ("data.split_sentences=true", "data.split_sentences=true is for data.unlabelled=FILE"),
    ],
)
def test_settings_that_are_not_read(search_of, word, line):
    with pytest.raises(BortError) as error:
        refuse_unused(search_of(word), [word], RULES)
    assert str(error.value).startswith(line)
    refuse_unused(search_of(), ["search.proxy=task", "task=custom", "head=linear"], RULES)


def test_what_shows_when_the_rows_are_read(search_of, rows_file, teacher, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("\n".join(rows_file.read_text().splitlines()[:100]))
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,label\n" + "\n".join(f"a {k},{k / 7}" for k in range(250)))
    others = tmp_path / "others.csv"
    others.write_text(rows_file.read_text().replace(",dog", ",cow"))
    for path, line in (
        (few, "search.proxy=task measures errors on a tenth of the training rows, and there are"),
        (numbers, "search.proxy=task compares distributions over classes, and task=custom has"),
        (others, f"teacher.name={teacher}"),
    ):
        run = search_of(f"data.train={path}")
        with pytest.raises(BortError) as error, open_sweep(run, tmp_path / "run"):
            pass
        assert str(error.value).startswith(line) and not (tmp_path / "run").exists()


def test_a_teacher_that_is_no_better_than_the_usual_label(search_of, tmp_path):
    run = search_of("distill.guard=0.9")
    with pytest.raises(BortError, match="the most frequent label in"):
        sweep(run, tmp_path / "run")
