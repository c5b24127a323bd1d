"""Errors by final states against Hugging Face in float64, T's own error, and a whole search."""

import csv
import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_folders import make_folder
from tiny_runs import counting, log_lines, plan_of, sweep, table
from transformers import AutoModel

from bort import api
from bort.errors import BortError
from bort.models.huggingface import load_masked_lm_or_encoder, load_tokenizer, save_model
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.recipe import prepare
from bort.search.answers import NO_W as REASONS
from bort.search.result import SearchResult
from bort.search.sweep import open_sweep
from bort.search.table_optimum import read_candidates
from bort.teachers.states import TeacherStates, UnmaskedText, compute_text_states
from bort.training.checkpoint import AtomicCheckpointIO
from bort.trials import states, training
from bort.trials.records import Job, read_records

ROOT = Path(__file__).resolve().parents[2]
NO_W = REASONS["states"]
GRID = "grid={depth: [1], hidden: [16, 32], head_size: 16, intermediate: [32], ratio: null}"
AIM = ["search.max_latency_share=1", "search.finalists=1", "search.seeds=2"]


@pytest.fixture(scope="module")
def headless(tmp_path_factory) -> Path:
    """T of two layers and width 32, without a masked-LM head."""
    folder = tmp_path_factory.mktemp("teacher") / "headless"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 600}
    model = make_folder(folder, "bert", AutoModel, **sizes)
    model.get_input_embeddings().weight.data.mul_(20)  # or all states would look alike
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def by_states(search_of, headless, tmp_path_factory):
    """A search of two candidates, one as wide as T; its settings, folder, summary and lines."""
    run = search_of(f"teacher.name={headless}", "search.objective=error", GRID, *AIM)
    folder, lines = tmp_path_factory.mktemp("search") / "run", log_lines()
    summary = sweep(run, folder)
    return run.settle(has_head=False), folder, summary, lines


def measure_by_hand(folder: Path, texts: torch.Tensor, projection: Path) -> torch.Tensor:
    """The final states of a folder's model in float64, brought to T's width: (B · S, H_T)."""
    with torch.no_grad():
        answers = AutoModel.from_pretrained(folder).double().eval()(texts).last_hidden_state
    if projection.exists():
        answers = answers @ torch.from_numpy(np.load(projection)).double().T
    return answers.flatten(0, 1)


def test_errors_are_cosines_by_hugging_face(by_states, headless):
    """1 − a·b / (|a| |b|) at every token of the held-out text, with T's states live."""
    run, folder, _, _ = by_states
    corpus, _ = prepare(run)
    val = ValBatches(corpus, replace(run.data, val_sequences=10**6), UnmaskedText())
    texts = torch.cat([batch["texts"] for batch in val])
    target = measure_by_hand(headless, texts, Path("none"))
    records = [record for record in read_records(folder) if record.job.seed == run.seed]
    assert [(folder / r.job.folder / "projection.npy").exists() for r in records] == [True, False]
    for record in records:
        trial = folder / record.job.folder
        answers = measure_by_hand(trial / "model", texts, trial / "projection.npy")
        lengths = answers.norm(dim=1) * target.norm(dim=1)
        expected = (1 - (answers * target).sum(1) / lengths).numpy()
        # T's states are kept in half precision
        assert np.load(trial / "losses.npy") == pytest.approx(expected, abs=1e-3)
        assert record.error == pytest.approx(expected.mean(), abs=1e-4)
        assert 0.01 < record.error < 2 and record.kl_by_step == {}
    plan = json.loads((folder / "search.json").read_text())
    units = target / target.norm(dim=1, keepdim=True)
    assert plan["positions"] == texts.numel() and plan["teacher"]["error"] == 0
    expected = 1 - units.mean(0).norm()
    assert plan["teacher"]["unigram_error"] == pytest.approx(float(expected), abs=1e-4)


def test_the_states_of_a_training_are_those_of_its_batches(by_states):
    """Each candidate learns from T's states of the very texts that it reads."""
    run, folder, _, _ = by_states
    corpus, teacher = prepare(run)
    for seed in (0, 1):
        kept = TeacherStates(folder / "teacher" / f"train-s{seed}", 32, compute_text_states)
        data = training.PackedDataModule(
            run.data,
            seed=seed,
            corpus=corpus,
            states=training.KeptStates(kept, kept),
            unmasked=UnmaskedText(),
        )
        data.setup()
        assert len(kept) == 6
        for batch in (data.train[number] for number in range(6)):
            live = teacher.compute_states(batch["texts"])
            torch.testing.assert_close(batch["text_states"].float(), live, atol=4e-3, rtol=2e-3)


def test_the_bound_is_reached_by_t_itself(by_states, headless, tmp_path):
    run, folder, _, _ = by_states
    corpus, teacher = prepare(run)
    model, has_head = load_masked_lm_or_encoder(headless)
    save_model(model.encoder, load_tokenizer(headless), tmp_path / "model")
    held = training.open_states(training.locate_val_pass(folder), teacher, run)
    val = training.make_val_batches(corpus, run)
    scores = states.measure_state_scores(tmp_path, val, held, teacher)
    assert not has_head and scores.error == pytest.approx(0, abs=1e-6)
    assert scores.hidden_loss == pytest.approx(0, abs=1e-5)


def test_a_kill_before_the_record_keeps_the_projection(by_states, search_of, tmp_path, monkeypatch):
    """The finished training is measured by the projection that it ended with, bit for bit."""
    run, folder = by_states[0], tmp_path / "run"

    def killed(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "measure_state_scores", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(run, folder)
    (trial,) = (path.parent for path in folder.glob("D*/summary.json"))
    assert not (trial / "point.json").exists() and not (trial / "checkpoints").exists()
    summary = sweep(run, folder)
    same = ("optimum", "error", "w_interval", "trainings", "train_flops", "seed_spread")
    assert {key: summary[key] for key in same} == {key: by_states[2][key] for key in same}
    errors, again = (
        {record.job: record.error for record in read_records(path)}
        for path in (by_states[1], folder)
    )
    assert errors == again and len(errors) == 3
    narrow = next(folder.glob("*-H16-*"))
    (narrow / "projection.npy").unlink()
    with pytest.raises(BortError, match="projection.npy cannot be read; delete its folder and rep"):
        states.load_projection(narrow, 16, 32)


def test_a_projection_is_kept_once(tmp_path):
    """An older checkpoint, which a longer training continues, does not replace it after a kill."""
    (tmp_path / "checkpoints").mkdir()
    for step, number in ((9, 3.0), (4, 1.0)):
        content = {"state_dict": {"projection.weight": torch.full((2, 1), number)}}
        path = tmp_path / "checkpoints" / f"step_{step:08d}.ckpt"
        AtomicCheckpointIO().save_checkpoint(content, path)
        states.keep_projection(tmp_path)
        for left in (tmp_path / "checkpoints").iterdir():
            left.unlink()
    assert states.load_projection(tmp_path, 1, 2).weight.tolist() == [[3.0], [3.0]]


def test_the_work_of_a_search_is_counted(search_of, headless, tmp_path):
    """T's passes exactly; of a candidate all but its states' means, which the loss compares."""
    run = search_of(f"teacher.name={headless}", "search.objective=error", GRID, *AIM)
    with counting() as counter, open_sweep(run, tmp_path / "run") as opened:
        plan = opened.plan
    assert plan.teacher_flops + plan.teacher_val_flops == counter.get_total_flops()
    wide = next(point for point in plan.points if point.xi.hidden == 32)
    settings = replace(opened.run, arch=wide.xi)
    with counting() as counter:
        training.evaluate(
            settings, tmp_path / "run", tmp_path / "run" / Job(wide.xi, 0, 4e-3).folder
        )
    assert wide.flops == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_the_plan_of_a_search_by_states(search_of, headless):
    """T's states of every token are kept, for two seeds and held out: 2 bytes × 32 a token."""
    words = (f"teacher.name={headless}", "search.objective=error", GRID, *AIM, "search.n=60000")
    plan = plan_of(search_of(*words))
    assert plan["bounds"] == f"none: {NO_W}"
    read = int(plan["n"].split()[2].replace(",", ""))  # tokens of a training
    assert read > 7e6  # in the last batch of an epoch there are fewer
    megabytes = float(plan["cache"].removesuffix(" MB of teacher states in nowhere"))
    # with those of the held-out text, rounded to three digits
    assert 0.998 < megabytes / (2e-6 * 32 * 2 * read) < 1.01


def test_a_search_by_states_has_no_w(by_states):
    """The lowest error wins; every place that would show a W says why there is none."""
    _, folder, summary, lines = by_states
    rows = [row for row in table(folder) if row["status"] == "trained"]
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors) and summary["error"] == errors[0]
    assert [float(row["w"]) for row in rows] == pytest.approx([1 - e for e in errors])
    assert (table(folder)[-1]["error"], table(folder)[-1]["w"]) == ("0.0", "1.0")  # T itself
    assert all(float(row["w_low"]) < float(row["w"]) < float(row["w_high"]) for row in rows)
    assert (summary["proxy"], summary["quality"], summary["teacher_error"]) == (
        "states",
        "1 − e",
        0,
    )
    assert summary["within_budget"] == summary["optimum"] and summary["regret_bound"] == 0
    assert (summary["w_optimum"], summary["w_optimum_note"]) == (None, NO_W)
    assert summary["by_ratio"] is summary["by_perplexity"] is None
    assert SearchResult.from_json(summary).to_json() == summary
    assert (folder / "optimum.yaml").exists() and not (folder / "optimum_w.yaml").exists()
    assert f"  by W      none: {NO_W}" in lines
    with pytest.raises(
        BortError, match="line 4: error=0.0 must .* by final states or on labels has"
    ):
        read_candidates(folder / "candidates.csv")
    said = [line for line in lines if "has no masked-LM head" in line]
    assert len(said) == 1 and said[0].endswith("final states are learnt: search.proxy=states")
    page = (folder / "report.html").read_text()
    assert NO_W.replace("'", "&#x27;") in page and "error, 1 − cosine of states" in page
    assert "nats" not in page and "Which ξ wins" not in page and "masked positions" not in page
    assert next(line for line in lines if "next" in line).endswith(" distill.w_hidden=1")
    settings = json.loads((folder / "settings.json").read_text())
    assert (settings["search.proxy"], settings["init"]) == ("states", "teacher")
    metrics = next(folder.glob("D*/metrics.csv")).read_text().splitlines()
    assert float(list(csv.DictReader(metrics))[-1]["val/hidden_loss"]) > 0


def test_two_workers_find_the_same_and_the_next_command_trains(
    by_states, headless, text, tmp_path, monkeypatch
):
    """By the command line: records as in one process, and a command that learns final states."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = [f"teacher.name={headless}", "data=text", f"data.path={text}", "data.length=16"]
    words += ["data.val_fraction=0.2", "trainer=cpu", "trainer.precision=32-true", "search.n=6"]
    words += [GRID, "search.max_latency_share=1", "search.finalists=1", "search.seeds=1"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "search.parallel=2", "name=far"]
    result = subprocess.run(
        [sys.executable, str(ROOT / "search.py"), *words],
        **{"cwd": tmp_path, "env": os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}},
        **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True},
    )
    assert (result.returncode, result.stderr) == (0, "")
    theirs, ours = (
        {record.xi: record.error for record in read_records(folder) if record.job.seed == 0}
        for folder in (tmp_path / "runs/search/far", by_states[1])
    )
    assert theirs == ours and len(ours) == 2
    command = shlex.split(result.stdout.splitlines()[-1].split("train.py", 1)[1])
    monkeypatch.chdir(tmp_path)
    experiment = command.pop(0).removeprefix("experiment=")
    trained = api.run(experiment, *command, "trainer=cpu", "trainer.max_steps=2", "name=found")
    assert "distill.w_hidden=1" in command and "val/kd_loss" not in trained.summary
    assert trained.summary["val/hidden_loss"] > 0
