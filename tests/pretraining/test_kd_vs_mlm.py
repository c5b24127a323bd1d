"""KD against plain MLM: the arms differ in what is compared and in nothing else."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import log_lines, open_batches, stopping
from torch.nn import functional as F

from bort.config.distill import CompareConfig, DistillConfig
from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.models.bert import MaskedLM
from bort.models.huggingface import load_masked_lm
from bort.pretraining import kd_vs_mlm as comparing
from bort.pretraining.comparison import ARMS, FRESH
from bort.pretraining.datamodule import LOOK_EVERY, PackedDataModule
from bort.pretraining.kd_vs_mlm import compare
from bort.pretraining.recipe import build_student, prepare
from bort.pretraining.teacher import locate_teacher
from bort.runs.folder import RunFolder
from bort.runs.summary import RunSummary

STEPS = 8


@pytest.fixture(scope="module")
def run(settings_of):
    return settings_of(
        *(f"trainer.max_steps={STEPS}", "trainer.val_check_interval=4", "distill.w_mlm=0.1"),
        *("compare.lrs=[4e-3,1e-5]", "dropout=0.1"),
        experiment="kd_vs_mlm",
    )


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """A finished comparison: its folder and summary."""
    folder = tmp_path_factory.mktemp("longer_than_one_line_of_a_terminal_" + 60 * "x") / "run"
    return folder, compare(run, folder, {"config.yaml": "x: 1\n"})


@torch.no_grad()
def measure_loss(model: MaskedLM, batches: list[dict]) -> float:
    """The mean cross-entropy of a model for the masked words of these batches."""
    losses = [
        F.cross_entropy(
            model(b["input_ids"], positions=b["positions"]), b["labels"], reduction="none"
        )
        for b in batches
    ]
    return float(torch.cat(losses).mean())


def rows(folder: str | Path) -> list[dict[str, str]]:
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_steps(done):
    folder, summary = done
    for arm in ("kd", "mlm", FRESH):
        assert summary[f"{arm}/steps"] == len(rows(summary[f"{arm}/folder"])) == STEPS
        assert summary[f"{arm}/tokens"] == summary["kd/tokens"]
    ratio = summary["kd/seconds"] / summary["mlm/seconds"]
    assert summary["mlm_equal_time/steps"] == max(1, round(STEPS * ratio))
    table = rows(summary["mlm_equal_time/folder"])
    assert len(table) == summary["mlm_equal_time/steps"]


def test_arms_share_start_data_and_masks(done):
    """The MLM term of step 1 is the same number: same weights, batch, masks and dropout.

    Only the arm with a fresh start has other weights.
    """
    _, summary = done
    first = {arm: rows(summary[f"{arm}/folder"])[0] for arm in ARMS}
    terms = {arm: row["train/mlm_loss"] for arm, row in first.items()}
    assert terms.pop(FRESH) != terms["kd"]
    assert len({*terms.values()}) == 1 and float(terms["kd"]) > 4
    assert float(first["kd"]["train/kd_loss"]) > 0 and first["mlm"]["train/kd_loss"] == ""


def test_arms_differ_in_loss_rate_and_budget_only(run, done):
    _, summary = done
    base = flatten_settings(replace(run.settle(), job="pretrain"))
    for arm in ARMS:
        job = comparing.build_arm_run(run, arm, 1e-5)
        changed = {k for k, v in flatten_settings(job).items() if v != base[k]} - {"compare.lrs"}
        expected = {"optim.lr"} | (set() if arm == "kd" else {"distill.w_kd", "distill.w_mlm"})
        assert changed == expected | ({"init"} if arm == FRESH else set())
    corpus, teacher = prepare(run)
    jobs = [comparing.build_arm_run(run, arm, 4e-3) for arm in ARMS]
    *models, afresh = [build_student(job, corpus, teacher).state_dict() for job in jobs]
    batches = [open_batches(corpus, job.data, job.seed).train[13] for job in jobs]
    for group in (models, batches):
        assert all(torch.equal(group[0][k], other[k]) for other in group[1:] for k in group[0])
    without = build_student(replace(jobs[0], init="default"), corpus, teacher).state_dict()
    assert all(torch.equal(afresh[k], without[k]) for k in without)


@pytest.mark.parametrize("init", ["teacher", None])
def test_all_arms_but_one_start_from_the_teacher(run, init):
    """The start is not what is compared; who has no teacher has none to start from, too."""
    taught = replace(run, init=init, arch=replace(run.arch, hidden=32))
    corpus, teacher = prepare(taught)
    assert comparing.list_arms(taught) == list(ARMS)
    for arm in ARMS:
        job = comparing.build_arm_run(taught, arm, 1e-3)
        student = build_student(job, corpus, teacher)
        words = student.encoder.embeddings.words.weight
        assert torch.equal(words, teacher.embeddings.words) == (arm != FRESH)


@pytest.mark.parametrize("init", ["default", "paper"])
def test_where_all_start_afresh_no_arm_does_alone(settings_of, tmp_path, init, capsys):
    run = settings_of("trainer.max_steps=2", f"init={init}", experiment="kd_vs_mlm")
    summary = compare(run, tmp_path / "run")
    assert not [key for key in summary if key.startswith(FRESH)]
    assert not (tmp_path / "run" / FRESH).exists()
    assert "MLM, fresh start" not in capsys.readouterr().out
    assert compare(run, tmp_path / "run") == summary


def test_an_older_run_keeps_its_three_arms(settings_of, tmp_path, monkeypatch):
    """It was started afresh, as all were; the same command resumes it."""
    run = settings_of("trainer.max_steps=2", experiment="kd_vs_mlm")
    assert run.init is None
    older = replace(run, init="default")
    summary = compare(older, tmp_path / "run")
    assert compare(run, tmp_path / "run") == summary
    (tmp_path / "run" / "summary.json").unlink()
    monkeypatch.setattr(
        "bort.pretraining.recipe.fit", lambda *_, **__: pytest.fail("trained again")
    )
    assert compare(run, tmp_path / "run") == summary


def test_summary(done, run):
    folder, summary = done
    text = (folder / "summary.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == summary
    keys = ("val/loss", "val/mlm_accuracy", "steps", "tokens", "seconds", "lr", "folder")
    assert {f"{arm}/{key}" for arm in ARMS for key in keys} <= summary.keys()
    stable = ("val/loss", "val/mlm_accuracy", "parameters", "tokens", "steps", "tokens_per_s")
    assert {*stable, "seconds", "seed", "unigram_ce", "teacher_seconds"} <= summary.keys()
    assert summary["val/loss"] == summary["kd/val/loss"]
    corpus, _ = prepare(run)
    teacher = RunFolder(locate_teacher(run, corpus)).find_summary()
    assert summary["teacher_seconds"] == teacher["seconds"] > 0
    assert not [value for value in summary.values() if isinstance(value, dict | list)]
    assert (folder / ".hydra" / "config.yaml").read_text() == "x: 1\n"
    for arm in ARMS:
        place = Path(summary[f"{arm}/folder"])
        assert place.is_relative_to(folder) and (place / "model" / "model.safetensors").exists()
        assert summary[f"{arm}/lr"] in (4e-3, 1e-5)
        both = [RunFolder(folder / arm / f"lr_{lr}").find_summary() for lr in ("0.004", "1e-05")]
        best = max(row["val/mlm_accuracy"] for row in both)
        assert summary[f"{arm}/val/mlm_accuracy"] == best


def test_each_arm_takes_its_best_rate_and_equal_time_is_its_own(run, tmp_path, monkeypatch):
    """By hand: KD's steps take 10 s, MLM's 4 s when in turns, so 20 steps for 8.

    The wall clock of either training, here 10 and 99 times as long, decides nothing.
    """
    accuracy = {("kd", 4e-3): 0.1, ("kd", 1e-5): 0.3, ("mlm", 4e-3): 0.2, ("mlm", 1e-5): 0.1}
    seconds = {("kd", 4e-3): 9.0, ("kd", 1e-5): 99.0, ("mlm", 4e-3): 400.0, ("mlm", 1e-5): 1.0}
    steps = {}

    def train(job, place, *_, **__):
        arm, lr = place.parent.name, job.optim.lr
        steps[arm] = job.trainer["max_steps"], job.trainer["val_check_interval"]
        place.mkdir(parents=True)
        (place / "metrics.csv").write_text("step,val/mlm_accuracy\n4,0.1\n5,\n8,0.2\n")
        values = {
            **{"val/loss": 1.0, "val/mlm_accuracy": accuracy.get((arm, lr), 0.25)},
            **{"steps": steps[arm][0], "tokens": 1, "seconds": seconds.get((arm, lr), 10.0)},
            **{"unigram_ce": 3.0, "unigram_accuracy": 0.07},
        }
        return RunSummary(values)

    monkeypatch.setattr(comparing, "train", train)
    steps_of = {"kd": 10 / 8, "mlm": 4 / 8}
    monkeypatch.setattr(comparing, "measure_step_seconds", lambda *_: steps_of)
    summary = compare(run, tmp_path / "run")
    assert [summary[f"{arm}/lr"] for arm in ARMS] == [1e-5, 4e-3, 4e-3, 4e-3]
    fixed = {arm: (8, 4) for arm in ("kd", "mlm", FRESH)}
    assert steps == fixed | {"mlm_equal_time": (20, 10)}
    assert summary["kd/seconds"] == summary["mlm_equal_time/seconds"] == 10.0
    assert (summary["kd/wall_seconds"], summary["mlm/wall_seconds"]) == (99.0, 400.0)


def test_a_teacher_that_costs_next_to_nothing(run):
    """An arm of equal time has a step, and an interval of validation, however short KD's was."""
    short = replace(run, trainer={**run.trainer, "max_steps": 3})
    trainer = comparing.build_arm_run(short, "mlm_equal_time", 1e-3, 0.01 / 3.0).trainer
    assert (trainer["max_steps"], trainer["val_check_interval"]) == (1, 1)
    long = replace(run, trainer={**run.trainer, "max_steps": 600, "val_check_interval": 150})
    trainer = comparing.build_arm_run(long, "mlm_equal_time", 1e-3, 901 / 600).trainer
    assert (trainer["max_steps"], trainer["val_check_interval"]) == (901, 226)  # not at 900, too
    share = replace(run, trainer={**run.trainer, "val_check_interval": 0.5})
    trainer = comparing.build_arm_run(share, "mlm_equal_time", 1e-3, 0.01 / 3.0).trainer
    assert trainer["val_check_interval"] == 0.5  # of an epoch: that stays


def test_validations_look_at_a_part_and_the_last_is_of_all(settings_of, tmp_path):
    """An arm ends with its scores at all held-out positions, in its table and its summary."""
    run = settings_of(
        *("trainer.max_steps=4", "trainer.val_check_interval=2", "data.batch_size=1"),
        *("data.val_fraction=0.5", "data.length=8"),
        experiment="kd_vs_mlm",
    )
    summary = compare(run, tmp_path / "run")
    corpus, teacher = prepare(run)
    val = open_batches(corpus, run.data, run.seed).val
    chosen = {"all": range(len(val)), "look": range(0, len(val), LOOK_EVERY)}
    assert 1 < len(chosen["look"]) < len(chosen["all"])
    for arm in ("kd", "mlm"):
        folder = RunFolder(summary[f"{arm}/folder"])
        model = load_masked_lm(folder.model)
        found = {name: measure_loss(model, [val[k] for k in ks]) for name, ks in chosen.items()}
        table = {row["step"]: row["val/loss"] for row in rows(folder.path) if row["val/loss"]}
        assert list(table) == ["2", "4"] and abs(found["all"] - found["look"]) > 1e-4
        assert float(table["4"]) == pytest.approx(found["all"], abs=1e-5)
        assert summary[f"{arm}/val/loss"] == float(table["4"])
    # The teacher, too, is scored at all positions, not only at those of the first look.
    expected = measure_loss(teacher.masked_lm, [val[number] for number in chosen["all"]])
    assert summary["teacher_loss"] == pytest.approx(expected, abs=1e-5)


def test_looks_within_a_training_read_every_fourth_batch(run):
    corpus, _ = prepare(run)
    data = PackedDataModule(run.data, seed=0, corpus=corpus, look_every=LOOK_EVERY)
    data.setup()
    assert len(data.val_dataloader()) == len(data.val)  # without a trainer
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    looks = list(data.val_dataloader())
    assert len(looks) == -(-len(data.val) // LOOK_EVERY)
    for number, batch in enumerate(looks):
        assert torch.equal(batch["input_ids"], data.val[number * LOOK_EVERY]["input_ids"])
    data.trainer.state.fn = "validate"
    assert len(data.val_dataloader()) == len(data.val)


def test_three_steps(settings_of, tmp_path):
    """The smallest comparison ends, and its second call finds it finished."""
    run = settings_of("trainer.max_steps=3", "trainer.val_check_interval=2", experiment="kd_vs_mlm")
    summary = compare(run, tmp_path / "run")
    assert summary["kd/steps"] == summary["mlm/steps"] == 3
    assert compare(run, tmp_path / "run") == summary


def test_steps_are_timed_in_turns():
    """By a clock of its own: KD 3 s, MLM 1 s, and twice that while the machine is busy."""
    turns = comparing.Turns({"kd": DistillConfig(), "mlm": DistillConfig(w_kd=0.0, w_mlm=1.0)})
    module, trainer = SimpleNamespace(distill=None), SimpleNamespace(global_step=0)
    with pytest.MonkeyPatch.context() as patch:
        now = [0.0]
        patch.setattr(comparing.time, "perf_counter", lambda: now[0])
        turns.on_train_start(trainer, module)
        for step in range(42):
            trainer.global_step = step
            turns.on_train_batch_end(trainer, module, None, None, 0)  # half of an accumulated step
            assert module.distill is turns.losses["mlm" if step % 2 else "kd"]
            now[0] += (1.0 if step % 2 else 3.0) * (2 if step > 25 else 1)
            trainer.global_step = step + 1
            turns.on_train_batch_end(trainer, module, None, None, 1)
    assert [len(values) for values in turns.seconds.values()] == [20, 20]
    kd, mlm = (sum(values) for values in turns.seconds.values())
    assert kd / mlm == 3


def test_what_is_printed(run, done, capsys):
    folder, summary = done
    compare(run, folder)
    out = capsys.readouterr().out
    for label in [*ARMS.values(), "unigram frequencies"]:
        assert label in out
    ways = {
        "mlm": "from the same start for the same steps",
        "mlm_equal_time": "from the same start for the same wall clock",
        FRESH: "from a fresh start for the same steps",
    }
    for arm, way in ways.items():
        ratio = summary["kd/val/mlm_accuracy"] / max(summary[f"{arm}/val/mlm_accuracy"], 1e-9)
        word = "better than" if ratio > 1 else "not better than"
        assert f"KD is {word} plain MLM {way}: {ratio:.2f} × its accuracy" in out
    assert "The teacher's own training took 0:0" in out
    for path in (
        f"{folder}/summary.json",
        f"{folder}/curves.html",
        f"{summary['kd/folder']}/model",
    ):
        assert path in out and Path(path).exists()  # in one piece, however long


def test_curves(done):
    """One page that needs no network, with a curve of each arm."""
    page = (done[0] / "curves.html").read_text()
    assert all(label in page for label in ARMS.values())
    assert 'src="http' not in page and page.endswith("</html>")
    for arm in ARMS:
        points = comparing.read_curve(Path(done[1][f"{arm}/folder"]) / "metrics.csv")
        assert points[-1] == (done[1][f"{arm}/steps"], done[1][f"{arm}/val/mlm_accuracy"])


def test_a_second_call_trains_nothing(run, done, monkeypatch):
    folder, summary = done
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/**/*.*")}
    monkeypatch.setattr(
        "bort.pretraining.recipe.fit", lambda *_, **__: pytest.fail("trained again")
    )
    lines = log_lines()
    assert compare(run, folder) == summary
    assert not [line for line in lines if "→" in line or "training" in line.split(",")[0]]
    assert len(before) > 30 and before == {
        path: path.stat().st_mtime_ns for path in folder.glob("*/*/**/*.*")
    }


def test_stopped_and_continued(run, tmp_path, done, monkeypatch):
    """After a stop in the second arm, the finished first one stays as it is."""
    train = comparing.train

    def stop(job, place, *inputs, **options):
        job = stopping(job, 3) if place.parent.name == "mlm" else job
        return train(job, place, *inputs, **options)

    monkeypatch.setattr(comparing, "train", stop)
    with pytest.raises(SystemExit):
        compare(run, tmp_path / "run")
    kept = [
        RunFolder(tmp_path / "run" / "kd" / f"lr_{lr}").find_summary() for lr in ("0.004", "1e-05")
    ]
    assert all(kept) and RunFolder(tmp_path / "run").find_summary() is None
    monkeypatch.setattr(comparing, "train", train)
    lines = log_lines()
    compare(run, tmp_path / "run")
    assert [line for line in lines if "MLM, equal steps, lr 0.004 resumes after step 3" in line]
    assert kept == [
        RunFolder(tmp_path / "run" / "kd" / f"lr_{lr}").find_summary() for lr in ("0.004", "1e-05")
    ]
    for arm in ("kd", "mlm"):
        for lr in ("lr_0.004", "lr_1e-05"):
            ours, reference = (
                (place / arm / lr / "metrics.csv").read_bytes()
                for place in (tmp_path / "run", done[0])
            )
            assert ours == reference


@pytest.mark.parametrize("resume", [True, False])
def test_trainings_that_are_launched(run, done, tmp_path, resume):
    """Each finds what the comparison has settled; all but what their clocks say is the same."""
    folder, names = tmp_path / "run", []

    def launch(waiting: list[str]) -> None:
        names.extend(waiting)
        for name in waiting[1:]:  # the first one's process was lost
            comparing.train_one(replace(run, resume=resume), folder, name)

    summary = compare(replace(run, resume=resume), folder, launch=launch)
    assert names == [f"{arm}/lr_{lr}" for arm in ARMS for lr in ("0.004", "1e-05")]
    for arm in ("kd", "mlm", FRESH):
        assert summary[f"{arm}/val/loss"] == done[1][f"{arm}/val/loss"]
        for lr in ("lr_0.004", "lr_1e-05"):
            file = f"{arm}/{lr}/metrics.csv"
            assert (folder / file).read_bytes() == (done[0] / file).read_bytes()
    names.clear()
    assert compare(run, folder, launch=launch) == summary and not names


def test_a_rate_that_diverges_drops_out(run, done, tmp_path):
    """It is a result, on a second call too; the arms are those of the rate that is left."""
    both = replace(run, compare=CompareConfig(lrs=[1e30, 0.004]))
    lines = log_lines()
    summary = compare(both, tmp_path / "run")
    assert [summary[f"{arm}/lr"] for arm in ARMS] == [0.004] * 4
    for arm in ("kd", "mlm"):
        assert summary[f"{arm}/val/loss"] == done[1][f"{arm}/val/loss"]
    dropped = [line for line in lines if "drops out: the loss became" in line]
    assert [line.split(",")[0] for line in dropped] == ["KD", "MLM", "MLM", "MLM"]
    lines.clear()
    assert compare(both, tmp_path / "run") == summary
    assert not [line for line in lines if "→" in line or "drops out" in line]


def test_who_has_no_teacher_has_none_to_start_from(settings_of, named_model):
    """Also with a named teacher, one row is plain MLM from a fresh start."""
    run = settings_of(f"teacher.name={named_model}", experiment="kd_vs_mlm")
    starts = {arm: comparing.build_arm_run(run, arm, 1e-3).init for arm in ARMS}
    assert starts.pop(FRESH) == "default" and {*starts.values()} == {"teacher"}
    assert run.settle_as(flatten_settings(run)).init is None
    older = flatten_settings(run) | {"init": "default"}
    assert run.settle_as(older).init == "default"


def test_every_rate_diverges(run, tmp_path):
    with pytest.raises(BortError, match="KD: every rate of compare.lrs diverged; add lower ones"):
        compare(replace(run, compare=CompareConfig(lrs=[1e30])), tmp_path / "run")


def test_other_settings_are_refused(run, done):
    with pytest.raises(BortError, match=r"holds a run with other settings \(seed=0, now 1\)"):
        compare(replace(run, seed=1), done[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["distill.w_hidden=1", "distill.w_kd=1"],
            "w_hidden and w_relation are for experiment=kd_",
        ),
        (["distill.w_kd=0"], "needs distill.w_kd above 0: it is the arm with a teacher"),
        (["trainer.max_steps=-1"], "needs trainer.max_steps: both arms get that many steps"),
        (["data.val_fraction=0"], "needs validation text; raise data.val_fraction"),
        (["+trainer.max_stps=3"], "trainer.max_stps is not a setting"),
    ],
)
def test_mistakes(settings_of, tmp_path, overrides, message):
    run = settings_of("distill.w_mlm=0.1", *overrides, experiment="kd_vs_mlm")
    with pytest.raises(BortError) as error:
        compare(run, tmp_path / "run")
    assert message in str(error.value) and not (tmp_path / "run").exists()
