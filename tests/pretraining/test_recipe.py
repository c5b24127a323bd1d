"""Whole runs on a tiny text, in this process: what a run leaves, and its mistakes."""

import fcntl
import json
import math
import re
import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretraining_helpers import rows
from safetensors.torch import load_file
from tiny_runs import log_lines, offline_log, open_batches
from transformers import AutoModelForMaskedLM, AutoTokenizer

from bort import report
from bort.config.fingerprint import flatten_settings
from bort.errors import BortError
from bort.files.run_files import make_run_record
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.kd_vs_mlm import compare
from bort.pretraining.module import DistillationModule
from bort.pretraining.recipe import build_student, prepare, pretrain
from bort.runs.closing import print_result
from bort.runs.folder import RunFolder
from bort.text.tokenizer import build_encoder, encode_texts

SUMMARY = ["parameters", "tokens", "steps", "tokens_per_s", "seconds", "seed"]  # spec: stable keys


# ------------------------------------------------------------------------------------ run folders


@pytest.fixture(scope="module")
def done(settings_of, tmp_path_factory):
    """A finished run: its settings, folder and lines."""
    run, folder, lines = settings_of(), tmp_path_factory.mktemp("runs") / "done", log_lines()
    pretrain(run, folder, {"config.yaml": "x: 1\n"})
    return run, folder, lines


def test_what_a_run_leaves(done):
    run, folder, _ = done
    assert {path.name for path in folder.iterdir()} == {
        *(".hydra", "checkpoints", "metrics.csv", "model", "perf.csv", "samples.txt"),
        *("corpus.json", "settings.json", "summary.json"),
    }
    text = (folder / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} in summary.json"))
    assert {"val/loss", "val/mlm_accuracy", *SUMMARY} <= summary.keys()
    assert not [value for value in summary.values() if isinstance(value, dict | list)]
    assert (summary["steps"], summary["seed"]) == (5, 0)
    assert summary["tokens"] == 5 * 8 * 16
    assert rows(folder)[-1]["val/loss"] == repr(summary["val/loss"])
    assert (folder / ".hydra" / "config.yaml").read_text() == "x: 1\n"
    weights = load_file(folder / "model" / "model.safetensors")
    token_type = 16  # Hugging Face's format has one token type; ours is without
    assert sum(w.numel() for w in weights.values()) == summary["parameters"] + token_type


def test_validation_is_the_sum_over_masked_places(settings_of, tmp_path):
    """`val/loss` by Hugging Face: −log p summed over all masked places, divided by their number."""
    run = settings_of("data.batch_size=1")  # four rows in a batch of validation
    summary = pretrain(run, tmp_path / "run")
    corpus, _ = prepare(run)
    batches = list(open_batches(corpus, run.data, run.seed).val)
    assert len(batches) == 4 and len({len(batch["labels"]) for batch in batches}) > 1
    reference = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "model").double().eval()
    total = correct = count = 0.0
    with torch.no_grad():
        for batch in batches:
            logits = reference(batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]]
            places = torch.arange(len(logits))
            total -= logits.log_softmax(-1)[places, batch["labels"]].sum().item()
            correct += (logits.argmax(-1) == batch["labels"]).sum().item()
            count += len(places)
    assert summary["val/loss"] == pytest.approx(total / count, abs=1e-5)
    assert summary["val/mlm_accuracy"] == pytest.approx(correct / count, abs=1e-6)


def test_a_finished_run_returns_at_once(done, monkeypatch):
    run, folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (folder / ".lock").touch()  # of a process that was killed when all but this was done
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work on a finished run")
    )
    lines = log_lines()
    assert pretrain(run, folder) == RunFolder(folder).find_summary()
    assert len(lines) == 1 and "is finished" in lines[0] and "resume=false" in lines[0]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_other_settings_are_refused_by_name(done, tmp_path, monkeypatch):
    run, folder, _ = done
    monkeypatch.setattr(
        "bort.pretraining.recipe.prepare", lambda *_: pytest.fail("work before the refusal")
    )
    lr = run.optim.lr
    changed = replace(run, seed=3, optim=replace(run.optim, lr=1e-3))
    with pytest.raises(BortError) as error:
        pretrain(changed, folder)
    message = str(error.value)
    assert f"(optim.lr={lr}, now 0.001, seed=0, now 3)" in message
    assert str(folder) in message and "resume=false" in message and "\n" not in message
    many = replace(changed, dropout=0.5, compile=True, data=replace(run.data, length=12))
    with pytest.raises(BortError, match="and 2 more"):
        pretrain(many, folder)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("mine")
    for resume in (True, False):  # nor is a folder of the user emptied
        with pytest.raises(BortError, match="holds files but no run"):
            pretrain(replace(run, resume=resume), other)
    assert (other / "chapter.txt").read_text() == "mine"


def test_settings_that_change_no_weight_may_change(done):
    run, folder, _ = done
    free = replace(run, name="x", checkpoint_every=7, data=replace(run.data, workers=1))
    assert pretrain(free, folder) == RunFolder(folder).find_summary()


def test_start_again(settings_of, tmp_path):
    run = settings_of("trainer.max_steps=2")
    pretrain(run, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("of the user")
    (tmp_path / "run" / "model" / "mine.txt").write_text("of the user")
    (tmp_path / "run" / "samples.txt").write_text("of the first run")
    again = replace(run, seed=1, resume=False)
    pretrain(again, tmp_path / "run")
    assert RunFolder(tmp_path / "run").find_summary()["seed"] == 1
    assert len(rows(tmp_path / "run")) == 2
    assert (tmp_path / "run" / "samples.txt").read_text() != "of the first run"
    for name in ("notes.txt", "model/mine.txt"):  # only what a run makes was removed
        assert (tmp_path / "run" / name).read_text() == "of the user"
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["seed"] == 1


def test_one_process_in_a_folder(settings_of, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        recorded = make_run_record(flatten_settings(settings_of()))
        (folder / "settings.json").write_text(json.dumps(recorded, default=str))
        with pytest.raises(BortError, match="another process is training in"):
            pretrain(settings_of(), folder)
    pretrain(settings_of(), folder)  # the lock went with its owner
    assert not (folder / ".lock").exists()


def test_a_lock_on_a_removed_file_keeps_nobody_out(tmp_path):
    """Two wait for a third; it removes the lock file, and they must not work at once."""
    inside, most = [], []

    def work():
        with RunFolder(tmp_path / "run").lock(True):
            inside.append(1)
            most.append(len(inside))
            (tmp_path / "run" / "summary.json").write_text("{}")  # or the folder would be removed
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_run_without_validation_says_why(settings_of, tmp_path):
    """In the summary and in the last lines, whoever reads `val/loss` then."""
    for number, (overrides, reason) in enumerate(
        [
            (["data.val_fraction=0"], "0 tokens are held out, one sequence needs 14"),
            (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0"),
        ]
    ):
        run = settings_of(*overrides, "trainer.max_steps=2")
        summary = pretrain(run, tmp_path / f"run{number}")
        lines = log_lines()
        assert "val/loss" not in summary and summary["no_validation"] == reason
        print_result(run, tmp_path / f"run{number}", summary, "mlm_pretrain")
        assert f"mlm_pretrain: no validation ({reason}) after 0:0" in lines[0]
        watched = settings_of(*overrides, "callbacks=early_stopping")
        with pytest.raises(BortError, match="early_stopping watches val/loss, and nothing is vali"):
            pretrain(watched, tmp_path / f"watched{number}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.check_val_every_n_epoch=1", "trainer.max_epochs=1"],
            "trainer: `val_check_interval` (200) must be less than or equal to the number of the",
        ),
        (["trainer.limit_train_batches=0.01"], "trainer: You requested to check 0.01 of the"),
    ],
)
def test_settings_that_only_the_data_show_wrong(settings_of, tmp_path, overrides, message):
    with pytest.raises(BortError) as error:
        pretrain(settings_of(*overrides), tmp_path / "run")
    assert str(error.value).startswith(message) and len(str(error.value)) <= 200


def test_nothing_is_left_of_a_run_that_could_not_start(settings_of, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = settings_of("logger=wandb", "logger.mode=online")
    with pytest.raises(BortError, match="needs a wandb key"):
        pretrain(run, tmp_path / "runs" / "mlm" / "x")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("short", "one sequence of data.length=128 needs 126"),
        ("nothing", "no text in it"),
        ("latin", "cafe.txt: not UTF-8 at byte 6"),
        ("badrows", "docs.jsonl, line 2: not JSON"),
        ("goood", "did you mean 'good'?"),
    ],
)
def test_nothing_is_left_of_a_text_that_cannot_be_used(
    shared, settings_of, cache, tmp_path, path, message
):
    """Case D5 through a run."""
    folder = shared / "cases" / "D5-file-folder" / path
    before = sorted((cache / "corpora").glob("*"))
    with pytest.raises(BortError) as error:
        pretrain(settings_of(f"data.path={folder}", "data.length=128"), tmp_path / "r" / "x")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    assert sorted((cache / "corpora").glob("*")) == before


def test_a_folder_that_cannot_be_made(settings_of, tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(BortError, match="runs/x cannot be written: "):
        pretrain(settings_of(), tmp_path / "runs" / "x")


# ------------------------------------------------------------------------------------ experiments


@pytest.mark.parametrize(
    "experiment", ["kd_pretrain", "kd_vs_mlm", "mlm_pretrain", "paper", "teacher_pretrain"]
)
def test_every_experiment_runs_one_step(settings_of, tmp_path, experiment):
    """With debug=default; tiny, and with a trained teacher in the paper's too."""
    tiny = ["trainer.max_steps=1", "teacher.max_steps=1", "teacher.name=null"]
    run = settings_of("debug=default", *tiny, experiment=experiment)
    assert run.trainer["limit_val_batches"] == 1  # of debug=default
    summary = (compare if run.job == "compare" else pretrain)(run, tmp_path / "run")
    assert summary["steps"] == 1 and math.isfinite(summary["val/loss"])


def test_one_batch_by_heart(settings_of, tmp_path):
    """debug=overfit: the same batch again and again, so that the loss goes to the ground."""
    run = settings_of("debug=overfit", "trainer.max_steps=120", "arch.hidden=32", "optim.lr=0.02")
    pretrain(run, tmp_path / "run")
    losses = [float(row["train/loss"]) for row in rows(tmp_path / "run")]
    assert len(losses) == 120 and losses[0] > 5 and np.mean(losses[-10:]) < 1


def test_profile(settings_of, tmp_path):
    lines = log_lines()
    run = settings_of("debug=profiler", "trainer.max_steps=2")
    pretrain(run, tmp_path / "run")
    assert [line for line in lines if "run_training_batch" in line]


# ------------------------------------------------------------------------------------ teachers


def test_student_may_start_from_the_teacher(settings_of, tmp_path):
    run = settings_of("init=teacher", "arch.hidden=32", experiment="kd_pretrain")
    corpus, teacher = prepare(run)
    student = build_student(run, corpus, teacher)
    words = [model.encoder.embeddings.words.weight for model in (student, teacher.masked_lm)]
    assert torch.equal(*words)
    assert pretrain(run, tmp_path / "run")["steps"] == 5


# ------------------------------------------------------------------------------------ baselines


def test_word_frequencies_and_teacher_stand_beside_the_result(settings_of, tmp_path):
    """All three are scored at the same masked positions."""
    run = settings_of("trainer.val_check_interval=2", experiment="kd_pretrain")
    corpus, teacher = prepare(run)
    summary = pretrain(run, tmp_path / "run")
    logits, labels = [], []
    for batch in ValBatches(corpus, run.data):
        logits.append(teacher.compute_logits(batch["input_ids"], batch["positions"]))
        labels.append(batch["labels"])
    logits, labels = torch.cat(logits).double(), torch.cat(labels)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    assert summary["teacher_loss"] == pytest.approx(loss.item(), rel=1e-5)
    accuracy = (logits.argmax(-1) == labels).double().mean()
    assert summary["teacher_accuracy"] == pytest.approx(accuracy.item(), rel=1e-5)
    words = Counter(corpus.train.tolist())
    specials = corpus.tokenizer.all_special_ids
    size = len(corpus.tokenizer) - len(specials)
    total = sum(n for word, n in words.items() if word not in specials) + size
    terms = [-math.log((words[label] + 1) / total) for label in labels.tolist()]
    assert summary["unigram_ce"] == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    counts = {word: n for word, n in words.items() if word not in specials}
    most = min(word for word, n in counts.items() if n == max(counts.values()))
    share = sum(label == most for label in labels.tolist()) / len(labels)
    assert summary["unigram_accuracy"] == pytest.approx(share, rel=1e-9)
    assert summary["length"] == 16


def test_the_teacher_is_scored_once(settings_of, tmp_path, monkeypatch):
    """Its passes are those that the validations need for the distillation anyway."""
    asked = []
    ask = DistillationModule.ask_teacher
    monkeypatch.setattr(
        DistillationModule, "ask_teacher", lambda self, b: asked.append(1) or ask(self, b)
    )
    run = settings_of("trainer.val_check_interval=5", experiment="kd_pretrain")
    corpus, _ = prepare(run)
    assert "teacher_loss" in pretrain(run, tmp_path / "run")
    assert len(asked) == 5 + len(ValBatches(corpus, run.data))


def test_closing_lines_name_them(settings_of, tmp_path):
    run = settings_of(experiment="kd_pretrain")
    summary, said = pretrain(run, tmp_path / "run"), log_lines()
    print_result(run, tmp_path / "run", summary, "kd_pretrain")
    assert re.search(r"; unigram [\d.]+, [\d.]+%; teacher [\d.]+, [\d.]+%\) after", said[0])
    assert said[0].endswith(" of training at up to 16 tokens")
    report.write_page(tmp_path / "run")
    assert "accuracy of the teacher" in (tmp_path / "run" / "report.html").read_text("utf-8")


# ------------------------------------------------------------------------------------ the tokenizer


def test_tokenizer_of_the_model_folder(shared, done):
    """Case T2: the ids of training are those of AutoTokenizer on the folder a run leaves."""
    run, folder, _ = done
    corpus, _ = prepare(run)
    strings = json.loads((shared / "cases" / "T2-tokenizer-reload" / "strings.json").read_text())
    assert len(strings) == 24
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    trained = encode_texts(build_encoder(corpus.tokenizer), strings)
    for string, ids in zip(strings, trained, strict=True):
        if "<mask>" not in string:  # a mask to be filled in use, a word in a training text
            assert tokenizer(string).input_ids == [0, *ids.tolist(), 2]
            assert tokenizer.decode(tokenizer(string).input_ids, skip_special_tokens=True) == string
        assert tokenizer.decode(ids) == string
    a, b = (tokenizer(word, add_special_tokens=False).input_ids for word in ("one", "two"))
    assert tokenizer("one", "two").input_ids == [0, *a, 2, 2, *b, 2]
    assert tokenizer.model_max_length == run.data.length  # at which it was trained


# ------------------------------------------------------------------------------------ wandb (G1)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No account, no key, no network, standard input closed."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("sys.stdin", None)


@pytest.mark.filterwarnings("default")  # wandb warns about its own use of pydantic
def test_wandb_offline(settings_of, tmp_path, offline):
    """Case G1: two jobs of one process are two runs; each panel's key is in the log."""
    for seed in (1, 2):
        run = settings_of(
            *("logger=wandb", f"seed={seed}", "trainer.val_check_interval=2"),
            *("trainer.max_steps=3", "logger.tags=[a,b]"),
        )
        pretrain(run, tmp_path / "runs" / f"s{seed}")
    panels = {
        *("train/loss", "train/lr", "train/grad_norm", "perf/tokens_per_s"),
        *("val/loss", "val/mlm_accuracy", "samples/predictions"),
    }
    for seed in (1, 2):
        history, config = offline_log(tmp_path / "runs" / f"s{seed}")
        assert config["seed"] == str(seed) and config["arch.hidden"] == "16"
        assert panels <= {key for row in history for key in row}
        table = rows(tmp_path / "runs" / f"s{seed}")
        steps = [row["trainer/global_step"] for row in history if "train/loss" in row]
        assert steps == [1, 2, 3]
        losses = [row["train/loss"] for row in history if "train/loss" in row]
        assert losses == pytest.approx([float(row["train/loss"]) for row in table])
