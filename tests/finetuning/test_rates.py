"""The rate of a fine-tuning: by the width, as it is given, or the best of three."""

import json
import shutil
from dataclasses import replace

import pytest
from tiny_runs import log_lines, plan_of, stopping

from bort.config.optim import OptimConfig
from bort.errors import BortError
from bort.finetuning import recipe as finetune
from bort.finetuning.examples import encode_examples
from bort.finetuning.heads import build_task_classifier
from bort.finetuning.rates import choose_rate, choose_rows, explain_rate, list_rates
from bort.models.huggingface import load_masked_lm, load_tokenizer
from bort.tasks.custom import define_task
from bort.tasks.registry import find_task
from bort.tasks.task import Row

RATES = ("0.002", "0.004", "0.008")  # of a width of 16: half of 0.064 / 16, that, and twice that


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> list[str]:
    """Settings of a task of one's own that is learnt within two epochs, with three rates tried."""
    folder = tmp_path_factory.mktemp("table")
    lines = [{"text": f"a {('cat', 'dog')[k % 2]} of {k}", "kind": "cd"[k % 2]} for k in range(90)]
    for name, part in (("train", lines[:70]), ("val", lines[70:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    files = [f"data.{name}={folder / name}.jsonl" for name in ("train", "val")]
    epochs = ["trainer.max_steps=-1", "trainer.max_epochs=2", "data.length=16", "dropout=0.1"]
    return [*files, *epochs, "data.label=kind", "optim.lr=auto"]


@pytest.fixture(scope="module")
def done(run_of, words, tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("done") / "run", log_lines()
    return folder, finetune.finetune(run_of("custom", None, *words), folder), list(lines)


def read_score(folder, rate: str) -> float:
    return json.loads((folder / "trials" / f"lr_{rate}" / "summary.json").read_text())[
        "val/accuracy"
    ]


def test_rates_follow_from_the_width_unless_one_is_given(run_of, words, tmp_path):
    assert explain_rate(OptimConfig(), 64).lr == pytest.approx(1e-3)
    assert "0.064 / 768, for a pre-trained model" in explain_rate(OptimConfig(), 768).reason
    assert explain_rate(OptimConfig(lr=3e-4), 64).lr == 3e-4
    assert list_rates(64) == pytest.approx([1e-3, 5e-4, 2e-3])
    lines = log_lines()
    summary = finetune.finetune(run_of("custom", None, *words, "optim.lr=null"), tmp_path / "run")
    assert summary["lr"] == pytest.approx(0.004)
    assert f"rate: 0.004, {summary['lr_reason']}" in lines
    assert summary["lr_reason"].startswith("0.064 / 16")
    assert not (tmp_path / "run" / "trials").exists()


def test_the_best_of_three_trains_as_if_it_had_been_given(done, run_of, words, tmp_path):
    """Scores, cost and reason are said; the weights are those of the same rate by hand."""
    folder, summary, lines = done
    scores = {rate: read_score(folder, rate) for rate in RATES}
    assert {rate: summary[f"rates/{rate}"] for rate in RATES} == scores
    assert (
        summary["lr"] == max((scores[f"{lr:g}"], -k, lr) for k, lr in enumerate(list_rates(16)))[2]
    )
    assert "the best of three on 8 held-out training rows" in summary["lr_reason"]
    assert "rate: three are tried on 62 training rows and scored on 8 others" in lines
    assert all(f"rate: {rate} has accuracy {scores[rate]:.4f}" in lines for rate in RATES)
    assert not list(folder.glob("trials/*/model")) and not list(folder.glob("trials/*/checkpoints"))
    given = [*words, f"optim.lr={summary['lr']}"]
    finetune.finetune(run_of("custom", None, *given), tmp_path / "run")
    for name in ("metrics.csv", "model/model.safetensors", "predictions/val.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("stopped", ["in a trial", "after all trials"])
def test_a_stopped_run_resumes_and_repeats_no_trial(
    done, run_of, words, tmp_path, monkeypatch, stopped
):
    run, folder = run_of("custom", None, *words), tmp_path / "run"
    if stopped == "in a trial":
        with pytest.raises(SystemExit):
            finetune.finetune(stopping(run, 3), folder)
        assert not (folder / "trials" / "lr_0.004" / "summary.json").exists()
    else:
        for name in ("settings.json", "corpus.json", "trials"):
            copy = shutil.copytree if name == "trials" else shutil.copy
            folder.mkdir(exist_ok=True)
            copy(done[0] / name, folder / name)
    train, labels = finetune.train_classifier, []

    def note(run, folder, model, examples, label="fine-tuning", *more):
        labels.append(label)
        return train(run, folder, model, examples, label, *more)

    monkeypatch.setattr(finetune, "train_classifier", note)
    finetune.finetune(run, folder)
    trials = ["rate 0.004", "rate 0.002", "rate 0.008"] if stopped == "in a trial" else []
    assert labels == [*trials, "fine-tuning"]
    for name in ("metrics.csv", "predictions/val.jsonl", "trials/lr_0.004/metrics.csv"):
        assert (folder / name).read_bytes() == (done[0] / name).read_bytes()


def plant(folder, scores: dict[str, float | None], metric: str = "accuracy") -> None:
    for rate, score in scores.items():
        path = folder / "trials" / f"lr_{rate}" / "summary.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({f"val/{metric}": score}))


@pytest.mark.parametrize(
    ("scores", "metric", "best"),
    [
        ((0.1, 0.2, 0.9), "accuracy", 0.008),
        ((0.9, 0.2, 0.3), "accuracy", 0.002),
        ((0.5, 0.5, 0.5), "accuracy", 0.004),  # the default of this width
        ((None, None, 0.1), "matthews", 0.008),  # the others have diverged
        ((None, None, None), "matthews", 0.004),
        ((0.9, 0.2, 0.3), "rmse", 0.004),  # the lowest
    ],
)
def test_scores_decide(run_of, words, model, tmp_path, scores, metric, best):
    """Planted ones, where the rates would have others."""
    kind = "regression" if metric == "rmse" else "classes"
    task = replace(define_task("custom", kind, ("text",), ("0", "1")), metrics=(metric,))
    label = float if metric == "rmse" else int
    rows = [Row(k, (f"the cat of line {k}",), label(k % 2)) for k in range(60)]
    tokenizer = load_tokenizer(model)
    examples = encode_examples(task, {"train": rows, "val": rows[:9]}, tokenizer, 16)
    start = build_task_classifier(load_masked_lm(model, head_required=False), examples)
    plant(tmp_path, dict(zip(RATES, scores, strict=True)), metric)
    run, choice = choose_rate(
        run_of("custom", None, *words),
        tmp_path,
        start,
        examples,
        lambda *_: pytest.fail("a finished trial is repeated"),
    )
    assert run.optim.lr == choice.lr == pytest.approx(best)
    assert ("no rate that was tried has a score" in choice.reason) == (set(scores) == {None})


def test_rows_are_divided_by_sentence_and_within_limits():
    phrases = find_task("glue/sst2")
    sentences = [f"so film {k} is fine".split() for k in range(100)]
    rows = [Row(k, (" ".join(sentences[k // 3][k % 3 :]),), k % 2) for k in range(300)]
    train, held = choose_rows(phrases, rows)
    texts = [f" {rows[k].texts[0]} " for k in held]
    for k in train:
        words = rows[k].texts[0].split()
        shared = [" ".join(["", *words[n : n + 3], ""]) for n in range(len(words) - 2)]
        assert not any(part in text for part in shared for text in texts)
    assert len(held) == 30 and 200 < len(train) < 270
    plain, _ = choose_rows(replace(phrases, phrases=False), rows)
    assert len(plain) == 270
    many = [Row(k, (f"film {k}",), k % 2) for k in range(20_000)]
    train, held = choose_rows(replace(phrases, phrases=False), many)
    assert (len(train), len(held)) == (4000, 1000) and not set(train) & set(held)
    unlabelled = [replace(row, label=None) for row in many[:100]]
    train, held = choose_rows(replace(phrases, phrases=False), unlabelled + many[100:200])
    assert min(held) >= 100 and set(range(100)) <= set(train)


def test_the_plan_says_what_the_trials_cost(run_of, words):
    plan = plan_of(run_of("custom", None, *words))
    assert plan["rate"] == "the best of 0.002, 0.004, 0.008, each tried on 62 rows and scored on 8"
    alone = plan_of(run_of("custom", None, *words, "optim.lr=null"))
    assert alone["rate"].startswith("0.004, 0.064 / 16")
    steps = [int(part["steps"].split()[0]) for part in (plan, alone)]
    assert steps[0] == pytest.approx(steps[1] * (1 + 3 * 62 / 70), abs=1)


def test_what_no_rate_can_be_tried_for_is_one_line(run_of, words, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(json.dumps({"text": f"a {k}", "kind": k % 2}) for k in range(49)))
    run = run_of("custom", None, *words, f"data.train={few}", f"data.val={few}")
    with pytest.raises(BortError, match="there are 49; give at least 50, or a rate"):
        finetune.finetune(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(BortError, match="tries rates by epochs; use trainer.max_epochs="):
        run_of("custom", None, *words, "trainer.max_time='00:00:01:00'")
    with pytest.raises(BortError, match="tries rates on one device"):
        run_of("custom", None, *words, "trainer.devices=2")
