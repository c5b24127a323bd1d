"""A search over vocabularies: by the real command, its comparison by hand, and what is refused."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from composed_settings import composed

from bort.config.search import SearchRunConfig
from bort.errors import BortError
from bort.models.arch import Arch
from bort.models.bert import ModelConfig
from bort.models.huggingface import load_masked_lm, load_tokenizer, read_model_config, save_model
from bort.models.initialization import build_model
from bort.runs.folder import RunFolder
from bort.search.answers import WITHIN_BUDGET, Answer
from bort.search.vocabularies import VocabularyAnswer, check_vocabularies, describe_answers
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
WHOLE, PART = 300, 270
GRID = "grid={depth: [1], hidden: [16], head_size: 16, intermediate: [16, 32], ratio: null}"


@pytest.fixture(scope="module")
def teacher(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "model"
    sizes = ModelConfig(2, 2, 32, 64, vocab_size=WHOLE, positions=64)
    tokenizer = train_tokenizer(text.read_text().splitlines(), WHOLE)
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def words(text, teacher) -> list[str]:
    return [
        *("data=text", f"data.path={text}", "data.length=16", "data.val_fraction=0.2"),
        *("trainer=cpu", "trainer.precision=32-true", "latency=analytic", GRID),
        *(f"teacher.name={teacher}", f"grid.vocab_size=[{WHOLE},{PART}]", "search.n=4"),
        *("search.max_latency_share=1", "search.finalists=1", "search.seeds=1"),
    ]


def search(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(ROOT / "search.py"), *words],
        **dict(cwd=folder, env=environment, stdin=subprocess.DEVNULL, timeout=250),
        **dict(capture_output=True, text=True),
    )


@pytest.fixture(scope="module")
def done(words, tmp_path_factory):
    """The folder where the command ran, and what it printed."""
    cwd = tmp_path_factory.mktemp("vocabularies")
    result = search([*words, "name=both"], cwd)
    assert result.returncode == 0, result.stderr
    return cwd, result


def test_what_is_lost_against_t_is_compared(done):
    """(e − e(T)) · tokens of the held-out text, by those of T's whole vocabulary."""
    folder = done[0] / "runs" / "search" / "both"
    losses, wholes = {}, set()
    for size in (WHOLE, PART):
        summary = json.loads((folder / f"v{size}" / "summary.json").read_text())
        inputs = json.loads((folder / f"v{size}" / "corpus.json").read_text())
        whole_tokens = inputs["full_val_tokens"] or inputs["val_tokens"]
        wholes.add(whole_tokens)
        share = inputs["val_tokens"] / whole_tokens
        losses[size] = (summary["error"] - summary["teacher_error"]) * share
        assert share == 1 if size == WHOLE else share > 1.01
        assert losses[size] > 0 and summary["trained"] == 2
        (trial, *_) = (folder / f"v{size}").glob("D*/model")
        assert read_model_config(trial).vocab_size == size == len(load_tokenizer(trial))
    assert len(wholes) == 1  # the same text
    whole = json.loads((folder / "summary.json").read_text())
    for size in (WHOLE, PART):
        assert whole[f"v{size}/loss"] == pytest.approx(losses[size])
    assert whole["vocab_size"] == min(losses, key=losses.get)
    assert whole["loss"] == min(losses.values())
    child = json.loads((folder / f"v{whole['vocab_size']}" / "summary.json").read_text())
    assert whole["optimum"] == child["optimum"]
    of_child = (folder / f"v{whole['vocab_size']}" / "optimum.yaml").read_text()
    assert (folder / "optimum.yaml").read_text() == of_child
    page = (folder / "report.html").read_text()
    assert f'href="v{PART}/report.html"' in page and "nats lost against T" in page


def test_the_last_line_trains_the_best_with_its_words(done, monkeypatch):
    cwd, result = done
    monkeypatch.chdir(cwd)
    *_, last = result.stdout.splitlines()
    assert last.startswith("  next ")
    run = composed(*shlex.split(last.split("train.py ")[1]))
    whole = json.loads((cwd / "runs" / "search" / "both" / "summary.json").read_text())
    assert run.data.vocab_size == whole["vocab_size"] and run.job == "pretrain"
    assert run.arch.to_json() == whole["optimum"]


def test_the_same_command_trains_nothing_again(done, words):
    cwd, _ = done
    folder = cwd / "runs" / "search" / "both"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("v*/D*/point.json")}
    result = search([*words, "name=both"], cwd)
    assert result.returncode == 0 and len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in folder.glob("v*/D*/point.json")} == before
    plain = composed(*words, "grid.vocab_size=null", of=SearchRunConfig)
    with pytest.raises(BortError, match="both holds files but no run of bort"):
        RunFolder(folder).check_settings(plain)


def make_answer(size: int, error: float, tokens: int, xi: Arch | None) -> VocabularyAnswer:
    answer = Answer(WITHIN_BUDGET, xi, "proven", 1000, 5.0, 0.1, error, note="within 5 ms")
    return VocabularyAnswer(size, answer, 1.0, tokens, 100, "ms")


def test_a_small_vocabulary_has_more_tokens_to_lose_on():
    """2.0 nats above T at each of 150 tokens is more than 2.5 at each of 100."""
    xi = Arch(1, 1, 16, 16)
    small, large = make_answer(10, 3.0, 150, xi), make_answer(20, 3.5, 100, xi)
    assert (small.loss, large.loss) == (3.0, 2.5)
    none = make_answer(30, 0.0, 90, None)
    lines = list(describe_answers([small, large, none], large))
    assert lines[-1] == "search: ⟨1,1,16,16⟩ with 20 words loses least"
    assert "none: within 5 ms" in lines[4] and "5.00 ms" in lines[3]


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["teacher.name=null"], "grid.vocab_size takes parts of a teacher's vocabulary; name one"),
        (["data.vocab_size=280"], "grid.vocab_size and data.vocab_size both name vocabularies"),
        (["search.objective=w"], "search.objective=w compares candidates of one vocabulary"),
        (["search.proxy=states"], "grid.vocab_size compares errors at masked words; search.proxy"),
    ],
)
def test_what_no_search_over_vocabularies_can_have(words, more, line):
    with pytest.raises(BortError) as error:
        composed(*words, *more, of=SearchRunConfig)
    assert str(error.value).startswith(line)


def test_files_of_others_are_left_alone(words, tmp_path):
    """What an early kill leaves is no file of others."""
    run = composed(*words, of=SearchRunConfig)
    (tmp_path / "v270" / ".hydra").mkdir(parents=True)
    check_vocabularies(run, tmp_path)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BortError, match="holds files but no search of bort"):
        check_vocabularies(run, tmp_path)


def test_a_vocabulary_that_t_cannot_give_is_refused_before_all(words, tmp_path):
    run = composed(*words, f"grid.vocab_size=[{PART},301]", of=SearchRunConfig)
    with pytest.raises(BortError, match=r"^grid.vocab_size=301 is above the 300 tokens"):
        check_vocabularies(run, tmp_path)


def test_a_teacher_without_a_head_has_no_words_to_compare(words, teacher, tmp_path):
    model, tokenizer = load_masked_lm(teacher), load_tokenizer(teacher)
    save_model(model.encoder, tokenizer, tmp_path / "headless")
    run = composed(*words, f"teacher.name={tmp_path / 'headless'}", of=SearchRunConfig)
    with pytest.raises(BortError, match="headless has no masked-LM head; name a teacher that has"):
        check_vocabularies(run, tmp_path / "run")
