"""What a search leaves: its files, W by the formula, and what the proof leaves out."""

import json
import shutil
from dataclasses import replace

import pytest
from omegaconf import OmegaConf
from tiny_runs import log_lines, sweep, table

from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.objectives.coefficient import w_coefficient
from bort.runs import folder as run_folders
from bort.search import optimum
from bort.search import sweep as search
from bort.search.fptas import BY_ERROR, UNDECIDED, Selection, pareto
from bort.trials import inputs
from bort.trials.plan import read_plan
from bort.trials.records import read_records

KEYS = (
    "optimum w w_interval candidates trained pruned skipped failed regret_bound teacher_batches "
    "train_flops exhaustive_flops seed"
).split()


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


def test_a_finished_search_needs_neither_text_nor_teacher_again(
    done, search_of, tmp_path, monkeypatch
):
    """Another cache, so T is gone: the results are said at once. A lost record is trained again."""
    _, folder, summary, _, _ = done
    run, lines = search_of("search.exponents=[0,0,1]"), log_lines()
    copy = shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    monkeypatch.setenv("BORT_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(inputs, "prepare", lambda *_: pytest.fail("text or teacher is read"))
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


def test_other_settings_than_those_of_the_search_are_refused(copied):
    """Of .hydra/config.yaml, from which the aim of the search is read when it has ended."""
    path = copied / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    config.search.exponents = [1.0, 1.0, 1.0]
    OmegaConf.save(config, path)
    with pytest.raises(BortError, match="other settings \\(search.exponents="):
        optimum.choose_optimum(copied)


# --------------------------------------------------------------------------- the three answers


def test_a_search_by_default_is_for_the_lowest_error_within_a_quarter(done, search_of, tmp_path):
    """Its answers are those of the exhaustive records, and both optima lie there."""
    folder, lines = tmp_path / "run", log_lines()
    run = search_of("search.objective=error", "search.finalists=1", "search.seeds=1")
    summary = sweep(run, folder)
    plan = read_plan(folder)
    limit = 0.25 * plan.teacher.latency[0]
    errors = {r.xi: r.error for r in read_records(done[1]) if r.job.seed == run.seed}
    fitting = {p.xi: errors[p.xi] for p in plan.points if p.latency[0] <= limit}
    assert (summary["trained"], summary["excluded"]) == (len(fitting), 8 - len(fitting))
    best = min(fitting, key=fitting.get)
    assert summary["objective"] == "error" and summary["optimum"] == best.to_json()
    assert summary["within_budget"] == best.to_json()
    assert summary["within_budget_certainty"] == "proven"
    assert summary["budget"] == "25% of T's operations"
    assert any("no budget was given: candidates have at most 25% of T's" in x for x in lines)
    assert any(x.strip().startswith("best within the budget") and str(best) in x for x in lines)
    for name, key in (("optimum.yaml", "within_budget"), ("optimum_w.yaml", "w_optimum")):
        sizes = OmegaConf.load(folder / name)
        assert list(sizes.values()) == summary[key]
    rows = {row["status"]: row for row in table(folder)}
    assert rows["excluded"]["reason"] == "over search.max_latency_share"
    sizes = plan.count_megabytes(512)
    assert float(table(folder)[0]["mb"]) == sizes[best]
    page = (folder / "report.html").read_text()
    assert "Three answers from the same records" in page and "the paper&#x27;s W" in page
    # what resume=false begins again with, and what is the user's
    (folder / "mine.txt").write_text("kept")
    run_folders.RunFolder(folder).clear()
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_the_answers_of_all_records_are_proven(done):
    summary, folder = done[2], done[1]
    certainties = [summary[f"{key}_certainty"] for key in ("within_budget", "w_optimum")]
    assert certainties == ["proven", "proven"]
    errors = {r.xi: r.error for r in read_records(folder) if r.job.seed == 0}
    plan = read_plan(folder)
    limit = 0.25 * plan.teacher.latency[0]
    fitting = {p.xi: errors[p.xi] for p in plan.points if p.latency[0] <= limit}
    assert summary["within_budget"] == min(fitting, key=fitting.get).to_json()


@pytest.mark.parametrize("budget", ["search.max_mb=0.07", "search.max_params=16000"])
def test_budgets_leave_what_fits(search_of, tmp_path, budget):
    run = search_of("search.objective=error", budget, "search.finalists=1", "search.seeds=1")
    summary = sweep(run, tmp_path / "run")
    plan = read_plan(tmp_path / "run")
    sizes = plan.count_megabytes(512)
    fitting = [p for p in plan.points if sizes[p.xi] <= 0.07]
    if "params" in budget:
        fitting = [p for p in plan.points if p.parameters <= 16000]
    assert 0 < summary["trained"] == len(fitting) < 8
    assert summary["w_optimum_certainty"] == "proven"  # among these


def strip_new_settings(run) -> dict:
    """The settings as an older version wrote them down."""
    new = ("search.max_mb", "search.max_latency_share", "search.proxy")
    return {key: value for key, value in flatten_settings(run).items() if key not in new}


@pytest.mark.parametrize("objective", ["w", "error"])
def test_a_search_of_an_older_version_keeps_its_aim(search_of, tmp_path, monkeypatch, objective):
    """By error alone it had no budget; its summary, optima and report are made as they were."""
    folder = tmp_path / "run"
    run = search_of(
        f"search.objective={objective}",
        *(["search.max_latency_share=1"] if objective == "error" else []),
        *("search.finalists=1", "search.seeds=1"),
    )
    monkeypatch.setattr(run_folders, "flatten_settings", strip_new_settings)
    summary = sweep(run, folder)
    monkeypatch.undo()
    path = folder / ".hydra" / "config.yaml"
    config = OmegaConf.load(path)
    del config.search["max_mb"], config.search["max_latency_share"], config.search["proxy"]
    OmegaConf.save(config, path)
    assert "max_mb" not in (folder / "settings.json").read_text()
    assert optimum.conclude(folder).to_json() == summary
    assert optimum.is_over(run, folder)
    if objective == "error":
        assert summary["trained"] == 8
        with pytest.raises(BortError, match="search.max_latency_share=1.0, now None"):
            optimum.is_over(search_of("search.objective=error", "search.finalists=1"), folder)
