"""Whole searches in process and by the command line; errors against Hugging Face's own models."""

import csv
import json
import math
import multiprocessing
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tiny_runs import log_lines, sweep, table
from transformers import AutoModelForMaskedLM

from bort.config import search as search_config
from bort.config.train import PretrainRunConfig
from bort.errors import BortError, Diverged
from bort.files.checked import write_checked
from bort.models.arch import Arch
from bort.models.bert import MaskedLM
from bort.objectives import latency
from bort.pretraining.datamodule import TrainBatches, ValBatches
from bort.pretraining.recipe import locate_teacher, prepare
from bort.pretraining.teacher_states import TeacherStates
from bort.runs.folder import RunFolder
from bort.search import optimum, trial
from bort.search import sweep as search
from bort.search.coefficient import w_coefficient
from bort.search.fptas import BY_ERROR, UNDECIDED, Scale, Selection, pareto
from bort.search.records import (
    GridPoint,
    Job,
    MaximumPoint,
    Origin,
    SearchPlan,
    TrialRecord,
    TrialStatus,
    read_plan,
    read_records,
)
from bort.search.statistics import (
    Paired,
    choose_by_controls,
    compare_horizons,
    describe_border,
    find_ties,
)

ROOT = Path(__file__).resolve().parents[2]
KEYS = (
    "optimum w w_interval candidates trained pruned skipped failed regret_bound teacher_batches "
    "train_flops exhaustive_flops seed"
).split()


@pytest.fixture(scope="module")
def done(search_of, tmp_path_factory):
    """A search that trained every candidate: its settings, folder, summary, lines, T's passes."""
    folder, lines, passes = tmp_path_factory.mktemp("search") / "run", log_lines(), []
    run = search_of("search.exponents=[0,0,1]")  # by error alone: the bound proves nothing away
    with pytest.MonkeyPatch.context() as patch:
        states = MaskedLM.head_states

        def counted(self, *args, **options):
            if self.config.intermediate == 64 and not self.training:  # T
                passes.append(self.config)
            return states(self, *args, **options)

        prepare(run)  # trains T, which is not counted
        patch.setattr(MaskedLM, "head_states", counted)
        summary = sweep(run, folder)
    return run, folder, summary, lines, passes


def test_what_a_search_leaves(done):
    run, folder, summary, lines, _ = done
    assert set(KEYS) <= summary.keys()
    assert summary == json.loads((folder / "summary.json").read_text())
    assert summary["trained"] == 8 and summary["excluded"] == 0
    assert summary["regret_bound"] == 0 and summary["candidates"] == 8
    for name in ("candidates.csv", "optimum.yaml", "report.html", "search.json"):
        assert (folder / name).stat().st_size > 0
    rows = table(folder)
    assert [row["status"] for row in rows].count("trained") == 8
    assert rows[-1]["status"] == "teacher" and len(rows) == 9
    best = OmegaConf.load(folder / "optimum.yaml")
    assert {key: str(value) for key, value in best.items()} == {
        key: rows[0][key] for key in ("depth", "heads", "hidden", "intermediate")
    }
    errors = [float(row["error"]) for row in rows if row["status"] == "trained"]
    assert errors == sorted(errors)
    assert [line for line in lines if "candidate 3 of at most 8" in line and "best W" in line]
    assert summary["trainings"] == 8 + 2  # two finalists with a second seed


def test_errors_are_those_of_hugging_face(done):
    """Cross-entropy against T's output at the same positions, by other code from the files."""
    run, folder, _, _, _ = done
    corpus, _ = prepare(run)
    plan = json.loads((folder / "search.json").read_text())
    val = ValBatches(corpus, replace(run.data, val_sequences=10**6))
    place = locate_teacher(run, corpus) / "model"
    models = [AutoModelForMaskedLM.from_pretrained(place).double().eval()]
    records = [r for r in read_records(folder) if r.job.seed == run.seed]
    models += [
        AutoModelForMaskedLM.from_pretrained(folder / place / "model").double().eval()
        for place in (r.job.folder for r in records)
    ]
    sums, count = torch.zeros(len(models), dtype=torch.float64), 0
    for batch in val:
        with torch.no_grad():
            logps = [
                m(batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]].log_softmax(-1)
                for m in models
            ]
        p = logps[0].exp()
        sums += torch.stack([-(p * logp).sum() for logp in logps])
        count += len(p)
    expected = (sums / count).tolist()
    assert plan["positions"] == count
    # T's states are kept in half precision
    assert plan["teacher"]["error"] == pytest.approx(expected[0], abs=1e-3)
    assert [r.error for r in records] == pytest.approx(expected[1:], abs=1e-3)


def test_errors_never_fall_below_the_entropy(done):
    """Gibbs, position by position: what the proof rests on."""
    run, folder, _, _, _ = done
    entropy = np.load(folder / "teacher" / "entropy.npy")
    losses = [np.load(path) for path in folder.glob("D*/losses.npy")]
    assert len(losses) == 10
    for each in losses:
        assert (each - entropy > -1e-5).all()


def test_w_is_the_formula(done):
    """W = (1 - p/p(T))^α (1 - i/i(T))^β (e(T)/e)^γ from the printed table."""
    _, folder, summary, _, _ = done
    *rows, teacher = table(folder)
    for row in rows:
        if row["status"] == "trained":
            expected = float(teacher["error"]) / float(row["error"])
            assert float(row["w"]) == pytest.approx(expected, rel=1e-9)
            assert float(row["w_low"]) < float(row["w"]) < float(row["w_high"])
    assert summary["w"] == float(rows[0]["w"])


def test_one_teacher_pass_for_the_sweep(done):
    """6 training batches and those of validation once, and 6 for the finalists' second seed."""
    run, folder, summary, _, passes = done
    corpus, _ = prepare(run)
    val = len(ValBatches(corpus, replace(run.data, val_sequences=10**6)))
    assert len(passes) == 6 + val + 6
    assert summary["teacher_batches"] == 12


def test_a_second_call_trains_nothing(done):
    run, folder, summary, _, _ = done
    before = {p: p.stat().st_mtime_ns for p in folder.glob("D*/**/*") if p.is_file()}
    lines = log_lines()
    assert sweep(run, folder) == summary
    assert len(before) > 50
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("D*/**/*") if p.is_file()}
    assert "search: 10 recorded already" in lines


def test_a_finished_search_needs_neither_text_nor_teacher_again(
    done, search_of, tmp_path, monkeypatch
):
    """Another cache, so T is gone: the results are said at once. A lost record is trained again."""
    _, folder, summary, _, _ = done
    run, lines = search_of("search.exponents=[0,0,1]"), log_lines()
    copy = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(trial, "prepare", lambda *_: pytest.fail("text or teacher is read"))
    assert optimum.is_over(run, copy)
    assert lines == [f"{copy} is finished; name= starts another run, resume=false this one again"]
    assert optimum.conclude(copy).to_json() == summary
    assert not optimum.is_over(replace(run, resume=False), copy)
    with pytest.raises(BortError, match="holds a run with other settings"):
        optimum.is_over(search_of("search.exponents=[1,1,1]"), copy)
    notes = json.loads((copy / "corpus.json").read_text())
    (copy / "corpus.json").write_text(json.dumps(notes | {"files": "0" * 16}))  # touched since
    assert not optimum.is_over(run, copy)
    (copy / "corpus.json").write_text(json.dumps(notes))
    shutil.rmtree(next(copy.glob("D*")))
    assert not optimum.is_over(run, copy)


def test_all_candidates_see_the_same_batches(done):
    """The kept states of T are those of the batch that a candidate trains on."""
    run, folder, _, _, _ = done
    corpus, teacher = prepare(run)
    states = TeacherStates(folder / "teacher" / f"train-s{run.seed}", 32)
    batches = TrainBatches(corpus, run.data, run.seed)
    assert len(states) == 6
    for k in range(6):
        with torch.no_grad():
            live = teacher.head_states(batches[k]["input_ids"], positions=batches[k]["positions"])
        kept = torch.from_numpy(states[k]).float()
        torch.testing.assert_close(kept, live, atol=2e-3, rtol=2e-3)


def test_pruning_proves_what_it_leaves_out(done, search_of, tmp_path):
    """By the paper's W: fewer trainings, and the optimum of the exhaustive records."""
    folder = done[1]
    run = search_of("search.finalists=1", "search.seeds=1")
    summary = sweep(run, tmp_path / "run")
    assert summary["pruned"] > 0 and summary["regret_bound"] == 0
    plan = read_plan(tmp_path / "run")
    scale = search.build_scale(plan.teacher, run)
    errors = {r.xi: r.error for r in read_records(folder) if r.job.seed == run.seed}
    points = {p.xi: (p.parameters, p.latency[0]) for p in plan.points}
    w = {xi: w_coefficient(*points[xi], e, scale) for xi, e in errors.items()}
    assert summary["w"] == pytest.approx(max(w.values()), rel=1e-6)
    for record in read_records(tmp_path / "run"):
        assert record.error == errors[record.xi]  # pruning changes no training
    # another aim's winner is that of the exhaustive records, or is not named
    scales = {"by_error": replace(scale, exponents=BY_ERROR), "by_ratio": scale}
    scales["by_perplexity"] = replace(scale, error="perplexity")
    for key, aim in scales.items():
        exhaustive = Selection(points, aim, errors=errors).best
        assert summary[key] in (UNDECIDED, str(exhaustive))
    assert (summary["by_ratio"], summary["by_error"]) == (summary["optimum_name"], UNDECIDED)
    front = pareto({xi: (*points[xi], e) for xi, e in errors.items()})
    assert set(summary["pareto"]) <= {str(xi) for xi in front}
    html = (tmp_path / "run" / "report.html").read_text()
    assert f"<td class=unknown>{UNDECIDED}</td>" in html
    assert summary["train_flops"] < summary["exhaustive_flops"]


# One width and depth, nothing trained again.
ALONE = ["grid.depth=[1]", "grid.hidden=[16]", "search.seeds=1", "search.finalists=1"]


def failing(monkeypatch, reasons: dict[int, Exception]) -> None:
    """Trainings of candidates with this intermediate size raise."""
    train = trial.train

    def broken(job, *inputs, **options):
        if job.arch.intermediate in reasons and options.get("states"):
            raise reasons[job.arch.intermediate]
        return train(job, *inputs, **options)

    monkeypatch.setattr(trial, "train", broken)


def test_failures_are_results(search_of, tmp_path, monkeypatch):
    """Case S1: one diverges, one finds no memory, one has no whole heads; the others finish."""
    failing(monkeypatch, {32: Diverged("the loss became nan at step 3"), 48: MemoryError()})
    run = search_of(
        "grid={depth: [1], hidden: [16], heads: [1, 3], intermediate: [16, 24, 32, 48]}",
        "grid.head_size=null",
        *("search.exponents=[0,0,1]", "search.seeds=1"),
    )
    lines = log_lines()
    summary = sweep(run, tmp_path / "run")
    assert (summary["trained"], summary["failed"], summary["invalid"]) == (2, 2, 4)
    assert "search: ⟨1,1,16,32⟩ failed: the loss became nan at step 3" in lines
    assert summary["diverged"] == 1
    # every bound is 1: the one without memory could have been better by all that is left
    assert summary["regret_bound"] == pytest.approx(1 - summary["w"])
    statuses = {row["intermediate"]: row["status"] for row in table(tmp_path / "run")[:4]}
    assert (statuses["32"], statuses["48"]) == ("diverged", "failed")
    reasons = {row["reason"] for row in table(tmp_path / "run")}
    assert {"out of memory", "heads=3 does not divide hidden=16"} <= reasons
    errors = {r.xi: r.error for r in read_records(tmp_path / "run")}
    best = min((xi for xi in errors if errors[xi]), key=errors.get)
    assert summary["optimum"] == best.to_json()


def test_no_memory_beside_others_is_tried_alone(search_of, tmp_path, monkeypatch):
    """The first time beside another training; then alone, where it fits or does not."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "search.parallel=2")
    train, crowd = trial.train, []

    def scarce(job, *inputs, **options):
        if options.get("states") and job.arch.intermediate == 32:
            raise MemoryError
        if options.get("states") and len(crowd) > 1:
            raise MemoryError
        return train(job, *inputs, **options)

    monkeypatch.setattr(trial, "train", scarce)
    lines, batches = log_lines(), []
    with search.open_sweep(run, tmp_path / "run") as sweep:
        while crowd := sweep.ask():
            batches.append([job.xi.intermediate for job in crowd])
            for job in crowd:
                own = replace(run, arch=job.xi, seed=job.seed)
                trial.evaluate(own, tmp_path / "run", tmp_path / "run" / job.folder)
            sweep.collect(crowd)
    assert sorted(batches[0]) == [16, 32] and sorted(batches[1:]) == [[16], [32]]
    assert [r.status for r in read_records(tmp_path / "run")] == ["trained", "failed"]
    assert any("found no memory beside others; now alone" in line for line in lines)
    assert [line for line in lines if "⟨1,1,16,32⟩ failed: out of memory" in line]
    summary = optimum.conclude(tmp_path / "run").to_json()
    assert (summary["trained"], summary["failed"], summary["diverged"]) == (1, 1, 0)
    assert summary["regret_bound"] == pytest.approx(1 - summary["w"])


def test_a_kill_among_the_checkpoints_of_a_candidate_leaves_none(search_of, tmp_path, monkeypatch):
    """They go before the candidate has a record, by which it is left alone."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "search.seeds=1", "checkpoint_every=2")

    def killed(folder: RunFolder) -> None:
        checkpoints(Path(folder))[0].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "remove_checkpoints", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep(run, tmp_path / "run")
    assert any(map(checkpoints, (tmp_path / "run").glob("D*")))
    assert sweep(run, tmp_path / "run")["trained"] == 2
    assert not any(map(checkpoints, (tmp_path / "run").glob("D*")))


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoints/*.ckpt"))


def test_a_failed_finalist_is_said(search_of, tmp_path, monkeypatch):
    """A further seed that fails takes nothing from the candidate's own error."""
    run = search_of(*ALONE, "search.exponents=[0,0,1]", "search.seeds=2")
    train = trial.train

    def broken(job, *inputs, **options):
        if options.get("states") and job.seed == 1:
            raise Diverged("the loss became nan at step 3")
        return train(job, *inputs, **options)

    monkeypatch.setattr(trial, "train", broken)
    lines = log_lines()
    summary = sweep(run, tmp_path / "run")
    assert (summary["trained"], summary["failed"], summary["further_failed"]) == (2, 0, 1)
    assert summary["regret_bound"] == 0 and summary["seed_spread"] is None
    assert any("finalist" in x and "with seed 1" in x and "failed: the loss" in x for x in lines)


# ------------------------------------------------------------------------------- edited records


@pytest.fixture
def copied(done, tmp_path):
    """The folder of `done`, without its models: what a choice is made from."""
    folder = tmp_path / "run"
    shutil.copytree(done[1], folder, ignore=shutil.ignore_patterns("model", "*.f16", "wandb"))
    assert optimum.choose_optimum(folder).result.w == done[2]["w"]
    return folder


def edited(path: Path, **changes) -> dict:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))
    return content


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"error": 1.0}, "was changed, damaged or written by another version; delete its folder"),
        ({"status": "failed", "reason": "x"}, "was changed"),
        ({"check": None}, "was changed"),
    ],
)
def test_an_edited_record_is_refused(copied, done, changes, reason):
    path = sorted(copied.glob("D*/point.json"))[1]
    edited(path, **changes)
    with pytest.raises(BortError, match=f"point.json {reason}"):
        optimum.choose_optimum(copied)
    with pytest.raises(BortError, match=f"point.json {reason}"):
        search.run_in_process(done[0], copied)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("teacher", "0123456789abcdef", "another teacher"),
        ("positions", "0123456789abcdef", "another set of masked positions"),
        ("settings", "0123456789abcdef", "another set of settings"),
        ("corpus", "0123456789abcdef", "another text"),
        ("n", 7, "another number of steps \\(7, here 6\\)"),
        ("version", 0, "another version of bort"),
    ],
)
def test_a_record_of_another_search_is_refused(copied, key, value, words):
    path = sorted(copied.glob("D*/point.json"))[1]
    content = json.loads(path.read_text()) | {key: value}
    content.pop("check")
    write_checked(path, content)
    with pytest.raises(BortError, match=f"point.json was measured with {words}"):
        optimum.choose_optimum(copied)


def test_a_record_in_the_wrong_folder_is_refused(copied):
    first, second = sorted(copied.glob("D*/point.json"))[:2]
    shutil.copy(first, second)
    with pytest.raises(BortError, match=f"is the record of {first.parent.name}"):
        optimum.choose_optimum(copied)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b"{}", b"[" * 99999, b"null"])
@pytest.mark.parametrize(
    "name",
    "point.json losses.npy search.json entropy.npy documents.npy settings.json".split(),
)
def test_damaged_files_of_a_search_are_one_line(copied, name, content):
    path = min(copied.rglob(name), key=lambda path: len(path.parts))
    path.write_bytes(content)
    with pytest.raises(BortError, match=f"{name} (was|is missing,) changed") as error:
        optimum.choose_optimum(copied)
    assert "\n" not in str(error.value)
    path.unlink()
    if name != "point.json":
        with pytest.raises(BortError, match=name):
            optimum.choose_optimum(copied)


def test_other_settings_than_those_of_the_search_are_refused(copied):
    """Of .hydra/config.yaml, from which the aim of the search is read when it has ended."""
    path = copied / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    config.search.exponents = [1.0, 1.0, 1.0]
    OmegaConf.save(config, path)
    with pytest.raises(BortError, match="other settings \\(search.exponents="):
        optimum.choose_optimum(copied)


def test_an_edited_plan_is_refused(copied):
    """T's entropy decides every W, and p and î every bound."""
    plan = json.loads((copied / "search.json").read_text())
    plan["points"][0]["latency"][0] /= 2
    (copied / "search.json").write_text(json.dumps(plan))
    with pytest.raises(BortError, match="search.json was changed, damaged or written by another"):
        optimum.choose_optimum(copied)


def test_all_fail(search_of, tmp_path, monkeypatch):
    failing(monkeypatch, {16: Diverged("the loss became inf"), 32: Diverged("the loss became inf")})
    with pytest.raises(BortError, match="all 8 candidates failed; the first one: the loss became"):
        sweep(search_of(), tmp_path / "run")
    assert not (tmp_path / "run" / "optimum.yaml").exists()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "out of memory"),
        (Diverged("the loss became nan"), "the loss became nan"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (BortError("the text was changed"), None),
    ],
)
def test_what_a_candidate_can_be_blamed_for(error, reason):
    assert trial.explain_failure(error) == reason


def test_a_bug_ends_the_search(search_of, tmp_path, monkeypatch):
    failing(monkeypatch, {16: RuntimeError("mat1 and mat2 shapes cannot be multiplied")})
    with pytest.raises(RuntimeError, match="mat1"):
        sweep(search_of(), tmp_path / "run")


def test_sigkill_at_random_moments(done, search_of, tmp_path):
    """Case S2: nothing that was recorded is trained again; the optimum is that of `done`."""
    run, folder = done[0], tmp_path / "run"
    rng = random.Random(0)
    context = multiprocessing.get_context("fork")
    before, kills = {}, 0
    for attempt in range(100):
        process = context.Process(target=sweep, args=(run, folder))
        process.start()
        process.join(rng.uniform(0.05, 0.7) if attempt < 8 else 120)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        now = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.glob("D*/point.json")}
        assert all(now.get(path) == value for path, value in before.items())
        before = now
        if process.exitcode == 0:
            break
    assert kills >= 3 and len(before) == 10
    summary = json.loads((folder / "summary.json").read_text())
    same = ("optimum", "w", "w_interval", "trained", "teacher_batches", "train_flops")
    assert {key: summary[key] for key in same} == {key: done[2][key] for key in same}


def test_further_rates_count_by_their_best(search_of, tmp_path):
    run = search_of("search.lrs=[1e-3,1e-2]", "search.seeds=1", "search.finalists=1")
    summary = sweep(run, tmp_path / "run")
    found = read_records(tmp_path / "run")
    assert {1e-3, 1e-2, 4e-3} <= {r.job.lr for r in found}
    best = min(r.error for r in found if r.xi.to_json() == summary["optimum"])
    assert summary["error"] == best


def test_rate_by_width(search_of):
    run = search_of("search.kappa=0.5", "arch={depth: 1, heads: 1, hidden: 16, intermediate: 16}")
    corpus, _ = prepare(run)
    job = trial.make_candidate_settings(run, 8)
    assert job.optim.lr == pytest.approx(run.optim.lr * 8**0.5)  # (16 / 128) ** -0.5
    assert job.trainer["max_steps"] == 6 and type(job) is PretrainRunConfig


def test_workers_may_read_ahead(done, search_of, tmp_path):
    """Of loaders: beyond the last step there is no kept output of T, and none is needed."""
    run = search_of("data.workers=1", "search.seeds=1", "grid.depth=[1]", "grid.hidden=[16]")
    sweep(run, tmp_path / "run")
    errors = {r.xi: r.error for r in read_records(done[1]) if r.job.seed == 0}
    found = read_records(tmp_path / "run")
    assert found and all(r.error == errors[r.xi] for r in found)
    assert not list((tmp_path / "run").glob("D*/checkpoints"))


# ------------------------------------------------------------------------------------ statistics


def test_bootstrap_of_the_mean(tmp_path, search_of):
    """Documents of one position each: the standard error is σ / √n."""
    (tmp_path / "teacher").mkdir()
    rng = np.random.default_rng(1)
    losses = rng.exponential(size=400)
    np.save(tmp_path / "teacher" / "documents.npy", np.arange(400))
    paired = Paired(tmp_path, [], search_of(), count=4000)
    means = paired.resample_losses(losses)
    assert means.mean() == pytest.approx(losses.mean(), abs=0.01)
    assert means.std() == pytest.approx(losses.std() / 20, rel=0.06)
    # of whole documents: what is equal within each varies as 40 values, not as 400
    np.save(tmp_path / "teacher" / "documents.npy", np.repeat(np.arange(40), 10) * 3)
    paired = Paired(tmp_path, [], search_of(), count=4000)
    each = np.repeat(losses[:40], 10)
    assert paired.resample_losses(each).std() == pytest.approx(
        losses[:40].std() / 40**0.5, rel=0.06
    )


def test_documents_of_the_masked_positions(done):
    """By decoding: the text before each separator is one document."""
    run = done[0]
    corpus, _ = prepare(run)
    val = ValBatches(corpus, replace(run.data, val_sequences=10**6))
    sep, documents = corpus.tokenizer.sep_token_id, val.documents()
    ends = np.asarray(corpus.val) == sep
    owner = np.cumsum(ends) - ends  # each token's document: the separators before it
    expected, row = [], 0
    for batch in val:
        for place in batch["positions"].tolist():
            at, column = divmod(place, run.data.length)
            expected.append(owner[(row + at) * (run.data.length - 2) + column - 1])
        row += len(batch["input_ids"])
    assert documents.tolist() == expected
    assert len(set(expected)) > 5


def test_teacher_states_go_on_after_a_stop(done, tmp_path, monkeypatch):
    run, folder, _, _, _ = done
    corpus, teacher = prepare(run)
    monkeypatch.setattr(TeacherStates, "EVERY", 4)
    batches, whole = TrainBatches(corpus, run.data, 5), TeacherStates(tmp_path / "a", 32)
    assert whole.build(teacher, batches, 11, lambda *_: None) == 11

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    cut = TeacherStates(tmp_path / "b", 32)
    with pytest.raises(KeyboardInterrupt):
        cut.build(teacher, batches, 11, stop)
    again = TeacherStates(tmp_path / "b", 32)
    assert len(again) == 4
    assert again.build(teacher, batches, 11, lambda *_: None) == 7
    assert (tmp_path / "a.f16").read_bytes() == (tmp_path / "b.f16").read_bytes()
    assert again.build(teacher, batches, 9, lambda *_: None) == 0
    assert all(np.array_equal(whole[k], again[k]) for k in range(11))


@pytest.mark.parametrize("harm", ["zeros", "flipped bit", "cut", "index"])
def test_damaged_teacher_states_are_made_again(done, tmp_path, monkeypatch, capsys, harm):
    run, folder, _, _, _ = done
    corpus, teacher = prepare(run)
    batches = TrainBatches(corpus, run.data, 5)
    TeacherStates(tmp_path / "a", 32).build(teacher, batches, 6, lambda *_: None)
    path = tmp_path / "a.f16"
    content, middle = path.read_bytes(), path.stat().st_size // 2
    if harm == "zeros":
        path.write_bytes(content[:middle] + bytes(len(content) - middle))
    elif harm == "flipped bit":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif harm == "cut":
        path.write_bytes(content[:middle])
    else:
        index = path.with_suffix(".npy")
        index.write_bytes(index.read_bytes()[:-30] + bytes(30))
    again = TeacherStates(tmp_path / "a", 32)
    assert "are damaged; they are made again" in capsys.readouterr().out
    assert again.build(teacher, batches, 6, lambda *_: None) == (6 if harm == "index" else 3)
    assert path.read_bytes() == content
    TeacherStates(tmp_path / "a", 32)
    assert not capsys.readouterr().out


def test_a_search_goes_on_after_its_teacher_states_were_damaged(done, tmp_path):
    run, folder, _, _, _ = done
    copy = shutil.copytree(folder, tmp_path / "run")
    harmed = [copy / "teacher" / "val.f16", copy / "teacher" / f"train-s{run.seed}.f16"]
    content = [path.read_bytes() for path in harmed]
    for path in harmed:
        path.write_bytes(bytes(path.stat().st_size))
    search.Sweep(run, copy)
    assert [path.read_bytes() for path in harmed] == content


def test_noise_in_latency_makes_ties(done):
    run, folder, _, _, _ = done
    plan = read_plan(folder)
    paired = Paired(folder, read_records(folder), run)
    by_w = replace(run, search=replace(run.search, exponents=[1, 1, 1]))
    choices = [search.build_selection(plan, aim, paired.records, paired) for aim in (by_w, run)]
    calm = [set(find_ties(plan, paired, chosen, seeds=0.0)) for chosen in choices]
    values = [(point, point.latency[0]) for point in plan.points]
    points = [replace(point, latency=[v, 0.2 * v, 3 * v]) for point, v in values]
    plan = replace(plan, points=points)
    noisy = [set(find_ties(plan, paired, chosen, seeds=0.0)) for chosen in choices]
    assert noisy[0] > calm[0]
    assert noisy[1] == calm[1]  # by error alone no latency matters
    assert len(find_ties(plan, paired, choices[0], seeds=10.0)) == 7


def plan_of(points: list[GridPoint]) -> SearchPlan:
    """A plan with these points and the paper's exponents."""
    teacher = MaximumPoint(Arch(9, 9, 9, 9), None, "", 1000, [100.0, 100.0, 100.0])
    return SearchPlan(teacher, points, [], [1.0, 1.0, 1.0], "ms", "")


class TwoErrors:
    """Resampled errors of two candidates: normal, with these means and deviations, in pairs."""

    def __init__(self, means: dict, spread: float, common: float):
        rng = np.random.default_rng(0)
        base = rng.normal(0, common, 1000)
        self.errors = {xi: mean + base + rng.normal(0, spread, 1000) for xi, mean in means.items()}
        self.entropy = 4.0 + base

    def resample_entropy(self) -> np.ndarray:
        return self.entropy

    def resample_error(self, xi) -> np.ndarray:
        return self.errors[xi]


@pytest.mark.parametrize(
    ("exponents", "apart", "tied"),
    [((0, 0, 1), 0.2, False), ((0, 0, 1), 0.004, True), ((1, 1, 1), 0.2, True)],
)
def test_ties_by_error_know_no_latency(exponents, apart, tied):
    """0.2 nats are 70 standard errors of the paired difference; latencies are known to a third.

    The larger one is the better one by W, too, by less than the noise in its latency.
    """
    small, large = Arch(1, 1, 8, 8), Arch(1, 1, 8, 16)
    scale = Scale(1000, 100, 4.0, exponents)
    chosen = Selection({small: (10.0, 10.0), large: (11.0, 11.0)}, scale)
    for xi, error in ((small, 6.0 + apart), (large, 6.0)):
        chosen.tell(xi, error)
    latency = {xi: [i, 0.6 * i, 1.4 * i] for xi, (_, i) in chosen.points.items()}
    plan = plan_of([GridPoint(xi, 0, 0, latency[xi]) for xi in (small, large)])
    plan = replace(plan, teacher=replace(plan.teacher, latency=[100.0, 60.0, 140.0]))
    paired = TwoErrors(chosen.errors, spread=0.002, common=0.05)
    assert chosen.best == large
    assert find_ties(plan, paired, chosen, seeds=None) == ([small] if tied else [])


def test_controls_break_ties_as_the_search_does():
    """Equal p and i for two numbers of heads: each control names the one that the search would.

    Without a weight on size and time every bound is 1, so that none is a choice.
    """
    grid = [Arch(d, a, 8, 8) for d in (1, 2) for a in (4, 1, 2)]
    plan = plan_of([GridPoint(xi, 0, 10 * xi.depth, [1.0, 1.0, 1.0]) for xi in grid])
    numbers = {xi: (10.0 * xi.depth, 1.0 * xi.depth) for xi in grid}
    errors = dict.fromkeys(grid, 5.0)
    by_w = choose_by_controls(plan, Selection(numbers, Scale(100, 10, 4.0), errors=errors))
    assert set(by_w.values()) == {"⟨1,1,8,8⟩"}
    scale = Scale(100, 10, 4.0, (0, 0, 1))
    by_error = choose_by_controls(plan, Selection(numbers, scale, errors=errors))
    assert by_error["control_bound"] is None and by_error["by_error"] == "⟨1,1,8,8⟩"
    few = Selection(numbers, Scale(100, 10, 4.0), errors={Arch(1, 1, 8, 8): 5.0})
    assert choose_by_controls(plan, few)["control_size"] is None
    assert choose_by_controls(plan, few)["by_error"] == UNDECIDED


def test_a_winner_at_an_earlier_step_is_named_only_when_proven():
    """Of two trained ones the other is ahead at half; a third, untrained, could have been first."""
    grid = [Arch(1, 1, 8, k) for k in (8, 16, 32)]
    points = {xi: (float(xi.intermediate), float(xi.intermediate)) for xi in grid}
    run = type("Run", (), {"seed": 0, "search": type("Search", (), {"n": 8})})
    at_half = {Arch(1, 1, 8, 8): 2.0, Arch(1, 1, 8, 16): 0.5}
    origin = Origin(1, "", "", "", "", 8)

    def records(first: float) -> list[TrialRecord]:
        """What was recorded, with `first` as KL at a quarter of the steps."""
        return [
            TrialRecord(
                Job(xi, 0, 1.0),
                origin,
                TrialStatus.TRAINED,
                error=error,
                kl_by_step={"2": first, "4": at_half[xi]},
            )
            for xi, error in ((Arch(1, 1, 8, 8), 4.1), (Arch(1, 1, 8, 16), 4.5))
        ]

    chosen = Selection(points, Scale(100, 100, 4.0))
    for record in records(3.0):
        chosen.tell(record.xi, record.error)
    quarter, half = compare_horizons(records(3.0), chosen, run, 4.0)
    # W at half: 0.92² · 4/6 = 0.564 and 0.84² · 4/4.5 = 0.627; the third has at most 0.68² = 0.462
    assert chosen.best == Arch(1, 1, 8, 8) and half.ahead == "⟨1,1,8,16⟩"
    assert half.winner == "⟨1,1,8,16⟩" and half.step == 4
    assert (quarter.winner, quarter.ahead) == ("⟨1,1,8,8⟩", "⟨1,1,8,8⟩")
    # 0.92² · 0.4 = 0.339 is below the third one's bound
    quarter, _ = compare_horizons(records(6.0), chosen, run, 4.0)
    assert (quarter.winner, quarter.ahead) == (UNDECIDED, "⟨1,1,8,8⟩")


def test_border_and_horizon(done):
    run, folder, summary, _, _ = done
    chosen = search.build_selection(read_plan(folder), run, read_records(folder))
    assert isinstance(chosen, Selection)
    assert summary["step_at_half"] == 2 and summary["n"] == 6  # validated every n // 4
    named = describe_border(chosen)
    for key in ("depth", "hidden", "intermediate"):
        values = {getattr(xi, key) for xi in chosen.order}
        word = "smallest" if getattr(chosen.best, key) == min(values) else "largest"
        assert f"{word} {key}" in named  # of two values each is a border
    assert -1 <= summary["tau_at_half"] <= 1 and summary["winner_at_quarter"].startswith("⟨")


# ------------------------------------------------------------------------------------ latency


@pytest.mark.parametrize("source", ["measured", "fitted", "onnx_int8"])
def test_latencies_are_milliseconds_and_recorded_once(search_of, tmp_path, source, monkeypatch):
    run = search_of(f"latency={source}", "latency.rounds=2", "latency.threads=1")
    corpus, teacher = prepare(run)
    shape = Arch(2, 2, 32, 64)
    found = search.measure_latency(run, shape, 280, tmp_path)
    assert found["unit"] == "ms" and len(found["points"]) == 9
    for value, low, high in found["points"].values():
        assert 0 < low <= value <= high < 1000
    assert found["points"][str(shape)][0] > found["points"][str(Arch(1, 1, 16, 16))][0]
    monkeypatch.setattr(search, "measure_latencies", lambda *_: pytest.fail("measured again"))
    assert search.measure_latency(run, shape, 280, tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]


def test_fitted_as_it_will_be_deployed(search_of, tmp_path, monkeypatch):
    run = search_of("latency=fitted", "latency.engine=onnx_int8", "latency.rounds=1")
    exported = []
    call = latency.onnx.make_encoder_call
    monkeypatch.setattr(
        latency.onnx, "make_encoder_call", lambda *a: exported.append(a[-1]) or call(*a)
    )
    run = replace(run, latency=replace(run.latency, shapes=6))
    found = search.measure_latency(run, Arch(2, 2, 32, 64), 280, tmp_path)
    assert exported and all(exported) and len(exported) < len(found["points"]) == 9
    assert found["note"].startswith("fitted: onnx_int8, batch 1 × 128 tokens")


def test_no_room_for_the_onnx_files(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1e6})()
    monkeypatch.setattr(latency.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(BortError, match="latency=fitted latency.engine=onnx_int8 needs a few"):
        latency.measure_latencies(
            *(
                search_config.LatencyConfig(source="onnx"),
                [Arch(1, 1, 256, 256)],
                None,
                8192,
                tmp_path,
            )
        )


def test_latency_table(search_of, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("depth,heads,hidden,intermediate,latency_ms\n1,1,16,16,2.5\n")
    run = search_of("latency=table", f"latency.path={path}")
    with pytest.raises(BortError, match=r"lacks 8 of the points: ⟨2,2,32,64⟩, ⟨1,1,16,32⟩, .*…"):
        search.measure_latency(run, Arch(2, 2, 32, 64), 280, tmp_path)
    lines = ["depth,heads,hidden,intermediate,latency_ms", "2,2,32,64,9"]
    lines += [f"{a.depth},{a.heads},{a.hidden},{a.intermediate},5" for a in run.grid.points()[0]]
    path.write_text("\n".join(lines))
    run = replace(run, search=replace(run.search, max_latency_ms=4.0))
    with pytest.raises(BortError, match="no candidate is left of 8; the nearest miss is"):
        sweep(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------ by hand


def by_hand(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        **dict(cwd=cwd, env=environment, stdin=subprocess.DEVNULL, timeout=200),
        **dict(capture_output=True, text=True),
    )


@pytest.fixture(scope="module")
def printed(tiny_search, tmp_path_factory):
    """`python search.py`: where, and what it printed."""
    cwd = tmp_path_factory.mktemp("by_hand")
    result = by_hand("search.py", *tiny_search, "name=first", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return cwd, result


def test_search_by_hand(printed, done):
    """The same as in process, and its optimum is a setting of train.py."""
    cwd, result = printed
    assert result.stderr == ""
    folder = cwd / "runs" / "search" / "first"
    command = result.stdout.splitlines()[-1].split("next")[1].split()
    assert command[:2] == ["python", "train.py"]
    summary = json.loads((folder / "summary.json").read_text())
    errors = {r.xi: r.error for r in read_records(done[1]) if r.job.seed == 0}
    for record in read_records(folder):
        if record.job.seed == 0:
            assert record.error == errors[record.xi]
    assert summary["pruned"] > 0
    line = next(x for x in result.stdout.splitlines() if x.startswith("search: of 8 points"))
    assert f"{summary['trained']} trained, {summary['pruned']} pruned by proof" in line


def test_the_optimum_is_trained_by_the_printed_command(printed, text):
    cwd, result = printed
    command = shlex.split(result.stdout.splitlines()[-1].split("train.py", 1)[1])
    tiny = [f"data.path={text}", "data=text", "data.length=16", "data.vocab_size=280"]
    tiny += ["data.val_fraction=0.2", "trainer=cpu", "trainer.max_steps=2", "teacher.max_steps=5"]
    tiny += ["teacher.arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}", "name=found"]
    trained = by_hand("train.py", *command, *tiny, cwd=cwd)
    assert trained.returncode == 0, trained.stderr
    made = json.loads((cwd / "runs/kd_pretrain/found/model/config.json").read_text())
    best = OmegaConf.load(cwd / "runs" / "search" / "first" / "optimum.yaml")
    assert (made["num_hidden_layers"], made["hidden_size"]) == (best.depth, best.hidden)


@pytest.mark.parametrize(
    "launcher",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    ],
)
def test_other_launchers_find_the_same(printed, tiny_search, launcher, tmp_path):
    plugin = "hydra_joblib_launcher" if "joblib" in launcher[0] else "hydra_submitit_launcher"
    pytest.importorskip(f"hydra_plugins.{plugin}")
    result = by_hand(
        *("search.py", *tiny_search, *launcher, "name=far", "search.parallel=2"),
        *("search.seeds=1",),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        {r.xi: r.error for r in read_records(folder) if r.job.seed == 0}
        for folder in (tmp_path / "runs/search/far", printed[0] / "runs/search/first")
    )
    assert theirs.items() <= ours.items()
    summaries = [
        json.loads((folder / "summary.json").read_text())
        for folder in (tmp_path / "runs/search/far", printed[0] / "runs/search/first")
    ]
    assert summaries[0]["optimum"] == summaries[1]["optimum"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["search.epsilon=9"], "search.epsilon=9 must be at most the 8 candidates of the grid"),
        (["search.epsilon=0"], "search.epsilon=0 must be at least 1"),
        (["search.n=0"], "search.n=0 must be at least 1"),
        (
            ["search.max_params=5"],
            "no candidate is left of 8; the nearest miss is ⟨1,1,16,16⟩ with",
        ),
        (["grid.head_size=5"], "grid: no number of heads divides any hidden size"),
        (["grid.depth=[]"], "grid.depth is empty"),
        (["latency=table", "latency.path=no.csv"], "latency.path=no.csv does not exist"),
        (["latency=table"], "latency=table needs latency.path=FILE"),
        (["search.max_latency_ms=3"], "search.max_latency_ms needs milliseconds; use latency=mea"),
        (["arch.depth=1,2"], "search.py chooses the points itself: instead of arch.depth=1,2 set"),
        (["arch=bort"], "arch=bort: search.py chooses the architecture; set grid= instead"),
        (["search.nn=3"], "search.nn is not a setting; did you mean 'search.n'?"),
        (["epsilon=0.1"], "epsilon is not a setting; did you mean 'search.epsilon'?"),
        (["grid=tinny"], "grid=tinny is unknown; did you mean 'tiny'?"),
        (["distill.w_kd=0", "distill.w_mlm=1"], "search.py needs distill.w_kd above 0"),
        (["trainer.devices=2"], "search.py trains a candidate on one device"),
    ],
)
def test_mistakes(tiny_search, tmp_path, arguments, line):
    result = by_hand("search.py", *tiny_search, *arguments, "name=wrong", cwd=tmp_path)
    assert result.returncode == 1, result.stdout
    assert result.stderr.startswith(f"search.py: {line}") and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_other_search_in_the_same_folder(printed, tiny_search):
    result = by_hand("search.py", *tiny_search, "name=first", "search.n=7", cwd=printed[0])
    assert result.returncode == 1
    assert "runs/search/first holds a run with other settings (search.n=6, now 7)" in result.stderr


def test_plan_of_a_budget_that_leaves_none(tmp_path):
    result = by_hand("search.py", "search.max_params=10", "dry_run=true", cwd=tmp_path)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "no candidate is left of 24; the nearest miss is ⟨" in result.stderr  # as the search


def test_plan_without_a_download(tmp_path):
    """350 points of the paper's grid, RoBERTa-large as T: sizes, bounds, hours, cache."""
    result = by_hand(
        *("search.py", "grid=paper", "teacher.name=roberta-large", "dry_run=true"), cwd=tmp_path
    )
    assert result.returncode == 0 and result.stderr == ""
    out = result.stdout
    assert "T           ⟨24,16,1024,4096⟩" in out and "of 420 points: 70 without" in out
    for word in ("bounds      W⁺ from", "GB of teacher states", "hours       at most"):
        assert word in out
    assert list(tmp_path.iterdir()) == []


def test_a_plain_sweep_is_gathered(text, tmp_path):
    """`train.py -m` over two sizes: a sorted table, summary.csv, the W-optimum."""
    tiny = [f"data.path={text}", "data=text", "data.length=16", "data.vocab_size=280"]
    tiny += ["data.val_fraction=0.2", "trainer=cpu", "trainer.max_steps=4", "teacher.max_steps=5"]
    tiny += ["teacher.arch={depth: 2, heads: 2, hidden: 32, intermediate: 64}", "name=sweep"]
    sizes = ["arch.depth=1,2", "arch.heads=1", "arch.hidden=16,32", "arch.intermediate=16"]
    result = by_hand("train.py", "-m", "experiment=kd_pretrain", *sizes, *tiny, cwd=tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    folder = tmp_path / "runs" / "kd_pretrain" / "sweep"
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    weights = [float(row["w"]) for row in rows]
    assert weights == sorted(weights, reverse=True)
    summary = json.loads((folder / rows[0]["job"] / "summary.json").read_text())
    p = 1 - summary["parameters"] / summary["teacher_parameters"]
    teacher = 2 * (2 * (4 * 32 * 32 + 2 * 32 * 64) + 4 * 16 * 32) * 16  # operations, two layers
    i = 1 - float(rows[0]["operations"]) / teacher
    e = summary["val/teacher_entropy"]
    expected = p * i * e / (e + summary["val/kd_loss"])
    assert weights[0] == pytest.approx(expected, rel=1e-4)
    best = OmegaConf.load(folder / "optimum.yaml")
    assert (str(best.depth), str(best.hidden)) == (rows[0]["depth"], rows[0]["hidden"])
    assert math.isfinite(float(rows[0]["val/loss"])) and "sweep: 4 runs" in result.stdout


def test_start_is_light(tmp_path):
    """`--cfg job` in about a second: neither torch nor lightning."""
    code = "import sys; sys.modules.update(torch=None, lightning=None, transformers=None)\n"
    code += (
        f"import runpy; sys.argv = ['search.py', '--cfg', 'job']; sys.path.insert(0, '{ROOT}')\n"
    )
    code += f"runpy.run_path('{ROOT / 'search.py'}', run_name='__main__')"
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "head_size: 32" in result.stdout and time.monotonic() - start < 10
