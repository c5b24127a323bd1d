"""Agora: rounds by hand, E apart from D, legal rows, labels of S, and a run that can be killed."""

import csv as csv_module
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from tiny_runs import log_lines, stopping

from bort import report
from bort.agora import recipe as agora_run
from bort.agora import report as agora_page
from bort.agora import student as candidate
from bort.agora.dataset import describe_differences, normalize_texts, split_rows
from bort.agora.generated import Labelling, generate_rows, read_generated, to_hard
from bort.agora.generators import GENERATORS, WordSource, find_changeable
from bort.agora.judge import Judge, compute_balanced_accuracy, find_teacher_source
from bort.agora.report import ARMS
from bort.agora.rounds import (
    Theta,
    drop_like_worst,
    keep_better_half,
    list_thetas,
    play_rounds,
)
from bort.config.agora import ThetaConfig
from bort.config.compose import parse_settings
from bort.config.train import TrainConfig
from bort.errors import BortError
from bort.files.writing import write_json
from bort.finetuning.answering import answer_split
from bort.finetuning.examples import encode_examples
from bort.models.arch import Arch
from bort.models.bert import ModelConfig, build_model
from bort.models.huggingface import load_classifier, load_masked_lm, load_tokenizer, save_model
from bort.runs.folder import RunFolder
from bort.tasks import reading, registry
from bort.tasks.custom import define_task
from bort.tasks.encoding import encode_rows
from bort.tasks.reading import load_task
from bort.tasks.task import Row
from bort.text.tokenizer import train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
TASK = define_task("toy", "classes", ("text",), ("no", "yes"))
NUMBERS = define_task("numbers", "regression", ("text",), ("0", "1"))


# ------------------------------------------------------------------------------------ rounds


def play(scores: dict, grid: int, **options) -> list:
    """Rounds of a trainer whose scores are known: {(round, replay): scores of its θs}."""
    log = []

    def train(number, replay, thetas, data):
        log.append((number, replay, [t.seed for t in thetas], data))
        return scores[number, replay]

    def grow(before, number, replay):
        return f"{before.data}+{number}.{replay}"

    found = list(play_rounds([Theta(seed=k) for k in range(grid)], "D", train, grow, **options))
    return [log, [(r.number, r.replay, r.thetas[r.best].seed, r.score) for r in found]]


def test_a_toy_by_hand():
    """Four θs, halved; round 2 is worse than round 1 and replayed; round 3 ends it."""
    scores = {
        (1, 0): [0.5, 0.7, 0.6, 0.1],  # 1 and 2 stay
        (2, 0): [0.6, 0.65],  # θ 1, θ 2: worse than 0.7
        (2, 1): [0.8, 0.75],  # better: this one counts, θ 1 stays
        (3, 0): [0.9],
    }
    log, found = play(scores, 4, replays=1)
    assert log == [
        (1, 0, [0, 1, 2, 3], "D"),
        (2, 0, [1, 2], "D+2.0"),
        (2, 1, [1, 2], "D+2.1"),
        (3, 0, [1], "D+2.1+3.0"),
    ]
    assert found == [(1, 0, 1, 0.7), (2, 1, 1, 0.8), (3, 0, 1, 0.9)]


def test_replays_are_limited_over_all_rounds_and_never_make_it_worse():
    scores = {
        (1, 0): [0.9, 0.1, 0.2],
        (2, 0): [0.5, 0.6],
        (2, 1): [0.4, 0.3],  # worse than the first attempt, which therefore counts
        (2, 2): [0.7, 0.5],
        (3, 0): [0.1],  # no replay is left
    }
    log, found = play(scores, 3, replays=2)
    assert [entry[:2] for entry in log] == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0)]
    assert found == [(1, 0, 0, 0.9), (2, 2, 0, 0.7), (3, 0, 0, 0.1)]
    # D of round 2's attempts is made from round 1 each time, that of round 3 from the best of them
    assert [entry[3] for entry in log] == ["D", "D+2.0", "D+2.1", "D+2.2", "D+2.2+3.0"]


def test_rounds_end():
    scores = {(1, 0): [0.5, 0.7], (2, 0): [0.7]}
    assert len(play(scores, 2, limit=1)[1]) == 1
    assert len(play(scores, 2)[1]) == 2
    train = iter([[0.5, 0.7]])
    found = list(
        play_rounds([Theta(seed=0), Theta(seed=1)], "D", lambda *_: next(train), lambda *_: None)
    )
    assert len(found) == 1  # no mistakes, so no further round
    assert play({(1, 0): [-math.inf, 0.2], (2, 0): [0.3]}, 2)[1][1] == (2, 0, 1, 0.3)


def test_the_published_bounds():
    """480 sets: 960 trainings by halving; the original drops one at least: 480 · 481 / 2."""
    published = ThetaConfig(
        lr=[1e-4, 1e-5, 9e-6],
        seed=[0, 1, 2, 3, 4],
        weight_decay=[0, 10, 100, 350],
        warmup=[0.35, 0.4, 0.45, 0.5],
        batch_size=[8, 16],
    )
    grid = list_thetas(published)
    assert len(grid) == len(set(grid)) == 480
    for prune, most in ((keep_better_half, 960), (drop_like_worst, 115_440)):
        count, thetas = 0, grid
        while thetas:
            count += len(thetas)
            kept = prune(thetas)
            assert len(kept) < len(thetas) and kept[:1] in ([], thetas[:1])  # the best stays
            thetas = kept
        assert count <= most
    assert count > 480 and sum([480, 240, 120, 60, 30, 15, 8, 4, 2, 1]) == 960


def test_pruning_by_the_longest_common_sequence():
    """The worst shares (seed 0, batch 8) with the third: whatever has both goes, the best stays."""
    ordered = [
        Theta(lr=1e-3, seed=0, batch_size=8),
        Theta(lr=1e-4, seed=1, batch_size=8),
        Theta(lr=1e-4, seed=0, batch_size=8),
        Theta(lr=1e-5, seed=1, batch_size=16),
        Theta(lr=1e-5, seed=0, batch_size=8),
    ]
    assert drop_like_worst(ordered) == [ordered[0], ordered[1], ordered[3]]
    alone = [Theta(seed=0), Theta(seed=1), Theta(seed=2)]  # nothing is shared: the worst alone
    assert drop_like_worst(alone) == alone[:2]
    assert (
        drop_like_worst(alone[:1]) == []
        and keep_better_half(alone) == alone[:2]
        and keep_better_half(alone[:1]) == []
    )


def test_points_and_their_names():
    found = list_thetas(ThetaConfig())
    assert [(p.lr_factor, p.seed) for p in found] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert str(found[3]) == "lr × 3, seed 1" and str(Theta()) == "the run's own"
    assert [(p.lr, p.lr_factor) for p in list_thetas(ThetaConfig(lr=[1e-3], seed=None))] == [
        (1e-3, 1.0)
    ]


def test_balanced_accuracy_is_that_of_scikit_learn():
    """Case F1: the majority answer on MRPC is right in 68% of rows, and worth one half."""
    labels, found = np.array([1] * 684 + [0] * 316), np.ones(1000)
    assert compute_balanced_accuracy(labels, found) == 0.5
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    labels, found = random.integers(3, size=200), random.integers(3, size=200)
    expected = metrics.balanced_accuracy_score(labels, found)
    assert compute_balanced_accuracy(labels, found) == pytest.approx(expected)


# ------------------------------------------------------------------------------------ D and E


def test_e_is_like_d_and_shares_no_text():
    """Case D4: texts that differ in spaces and case are one; each label gives its share."""
    rows = [Row(k, (f"text {k % 70}" + "  " * (k % 3),), int(k % 70 < 20)) for k in range(200)]
    rows.append(Row(200, ("TEXT 3 ",), 1))
    D, E = split_rows(TASK, rows, 0.2)
    assert sorted(row.index for row in D + E) == list(range(201))
    assert not {normalize_texts(row) for row in D} & {normalize_texts(row) for row in E}
    for label in (0, 1):
        share = sum(r.label == label for r in E) / sum(r.label == label for r in rows)
        assert 0.2 <= share < 0.26
    more = split_rows(TASK, [Row(999, ("another",), 0), *rows], 0.2)
    assert len(set(more[1]) ^ set(E)) <= 2  # one row more moves hardly any other


def test_what_d_and_e_are_not():
    """By hand: 40% and 60%; and a label of 20%, less than half its equal share of 50%."""
    rows = [[Row(k, (f"{k}",), int(k < ones)) for k in range(10)] for ones in (4, 6, 2)]
    assert list(describe_differences(TASK, rows[0], rows[0])) == []
    assert list(describe_differences(TASK, rows[0], rows[1])) == [
        "'no' is 60% of D and 40% of E",
        "'yes' is 40% of D and 60% of E",
    ]
    (line,) = describe_differences(TASK, rows[2], rows[2])
    assert line == "D is not balanced ('yes' is 20%); the rows that are generated will be"


def test_e_takes_whole_passages_and_groups():
    rows = [
        Row((k // 6, k // 2, k), (f"p {k // 6}", f"a {k}"), k % 2, group=k // 2) for k in range(60)
    ]
    D, E = split_rows(TASK, rows, 0.3)
    assert E and not {row.index[0] for row in D} & {row.index[0] for row in E}
    pairs = [Row(k, (f"row {k}",), k % 2, group=k // 2) for k in range(40)]
    D, E = split_rows(TASK, pairs, 0.3)
    assert not {row.group for row in D} & {row.group for row in E}


@pytest.mark.parametrize(
    "labels", [[0] * 30, [0] * 29 + [1]], ids=["one class", "one row of a class"]
)
def test_e_with_one_class_is_refused(labels):
    rows = [Row(k, (f"row {k}",), label) for k, label in enumerate(labels)]
    with pytest.raises(BortError, match="would hold .* rows of the labels no only"):
        split_rows(TASK, rows, 0.2)


@pytest.mark.parametrize("numbers", [[0.5, 1.5], [0.5, 1.5, 2.5], [0.5] * 30, [0.5] * 29 + [1.5]])
def test_e_with_one_number_is_refused(numbers):
    """Before S is trained: no correlation and no r2 would be defined."""
    rows = [Row(k, (f"row {k}",), number) for k, number in enumerate(numbers)]
    with pytest.raises(BortError, match="would hold .* rows? of one number or none"):
        split_rows(NUMBERS, rows, 0.2)


# ------------------------------------------------------------------------------------ generators


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A masked LM as small as can be, whose vocabulary has whole words."""
    words = [f"the {a} and the {b} were good, bad or new in line" for a in WORDS for b in WORDS]
    tokenizer = train_tokenizer(words, 340)
    sizes = ModelConfig(**vars(Arch(1, 2, 16, 32)), vocab_size=340, positions=160)
    folder = tmp_path_factory.mktemp("encoder") / "model"
    save_model(build_model(sizes, "default", 0), tokenizer, folder)
    return folder


WORDS = ("cat", "dog", "bird", "tree", "house", "river")


@pytest.fixture(scope="module")
def source(encoder) -> WordSource:
    return WordSource(load_masked_lm(encoder), load_tokenizer(encoder))


def test_a_source_knows_whole_words_only(source):
    assert {"the", "and", "good"} <= set(source.ids)
    assert all(re.fullmatch(r"\w+", word) for word in source.ids)
    assert not set(source.words) & set(source.tokenizer.all_special_ids)
    for word, number in source.ids.items():
        assert source.tokenizer.convert_ids_to_tokens(number) == f"Ġ{word}"


def test_word_pieces(shared):
    """WordPiece marks what continues a word, not what begins one."""
    folder = shared / "cases" / "models" / "bert-tiny"
    found = WordSource(load_masked_lm(folder), load_tokenizer(folder))
    tokens = found.tokenizer.convert_ids_to_tokens(list(found.words))
    assert len(tokens) > 20 and not any(token.startswith(("##", "[")) for token in tokens)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize(
    "name",
    ["glue/rte", "glue/cola", "glue/stsb", "superglue/wic", "superglue/wsc", "superglue/copa",
     "superglue/multirc", "race/middle"],
)  # fmt: skip
def test_rows_are_legal(shared, source, name, kind):
    """Real rows: as many texts, spans on the same words, fixed texts kept, the row castable."""
    task = registry.find_task(name)
    read = reading.read_rows(task, shared / "data" / name.split("/")[0])
    rows = read["train"][:40]
    made = GENERATORS[kind](task, rows, 0.2, np.random.default_rng(0), source)
    assert sum(row is not None for row in made) > 20
    for old, new in zip(rows, made, strict=True):
        if new is None:
            continue
        assert new.texts != old.texts and len(new.texts) == len(old.texts) and new.label is None
        assert all(re.search(r"\w", text) for text in new.texts)
        for owner, a, b in zip((0, len(old.texts) - 1), old.spans, new.spans, strict=False):
            assert old.texts[owner][slice(*a)] == new.texts[owner][slice(*b)]
        if task.kind == "choices":
            assert new.texts[1:] == old.texts[1:]
    encode_rows(task, [row for row in made if row is not None], source.tokenizer, 512)
    if task.kind == "spans":
        _readable_as_rows(task, [row for row in made if row is not None])


def _readable_as_rows(task, rows: list[Row]) -> None:
    """The reader of official files takes them: spans are whole words."""
    if task.name == "superglue/wic":
        for row in rows:
            (a, b), (c, d) = row.spans
            record = {"word": "x", "start1": a, "end1": b, "start2": c, "end2": d, "idx": 0}
            record |= dict(zip(task.columns, row.texts, strict=True)) | {"label": True}
            assert next(task.shape(task, record, "here")).spans == row.spans


def test_a_masked_lm_never_puts_the_word_back(source):
    rows = [Row(k, (f"the {WORDS[k % 6]} and the house were good",), 0) for k in range(60)]
    made = GENERATORS["mlm"](TASK, rows, 0.3, np.random.default_rng(0), source)
    for old, new in zip(rows, made, strict=True):
        before, after = old.texts[0].split(), new.texts[0].split()
        assert (
            len(before) == len(after)
            and sum(a != b for a, b in zip(before, after, strict=True)) == 2
        )
    again = GENERATORS["mlm"](TASK, rows, 0.3, np.random.default_rng(0), source)
    assert made == again


@pytest.mark.parametrize("kind", GENERATORS)
def test_special_ids_stay_where_they_belong(source, kind):
    """Case T1: words such as <mask> in a text are ordinary ones, before and after."""
    text = "the <mask> and </s> the cat <s> were good [MASK] or <pad>"
    rows = [Row(k, (text,), 0) for k in range(40)]
    made = GENERATORS[kind](TASK, rows, 0.3, np.random.default_rng(0), source)
    made = [row for row in made if row is not None]
    inputs = encode_rows(TASK, made, source.tokenizer, 160)
    special = set(source.tokenizer.all_special_ids)
    assert len(made) > 30
    for (ids,), row in zip(inputs.input_ids, made, strict=True):
        assert not special & set(ids[1:-1].tolist()) and {ids[0], ids[-1]} <= special
        assert source.tokenizer.decode(ids[1:-1]) == row.texts[0]


def test_a_masked_lm_draws_what_is_probable(source):
    """The logits behind a draw are those of Hugging Face for the text with the mask in it."""
    from transformers import AutoModelForMaskedLM

    from bort.agora.generators import compute_mask_logits, mask_words

    text, folder = "the cat and the dog", source.tokenizer.name_or_path
    word = find_changeable(TASK, Row(0, (text,), 0))[1]
    ids, kept = mask_words(text, [word], source)
    expected = source.tokenizer("the<mask> and the dog")["input_ids"]
    assert ids == expected and kept == [word]
    theirs = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0, ids.index(source.tokenizer.mask_token_id)]
        ours = compute_mask_logits([ids, ids[:3]], source)[0]
    torch.testing.assert_close(ours, logits[source.allowed], atol=1e-5, rtol=1e-4)


def test_nearest_words_are_near(source):
    vectors = source.model.encoder.embeddings.words.weight
    rows = [Row(0, ("the house and the river",), 0)] * 40
    made = GENERATORS["nearest"](TASK, rows, 0.2, np.random.default_rng(0), source)
    for row in made:
        ((old, new),) = [
            (a, b)
            for a, b in zip(rows[0].texts[0].split(), row.texts[0].split(), strict=True)
            if a != b
        ]
        near = torch.cosine_similarity(vectors[source.ids[old]], vectors[source.allowed])
        order = [source.words[int(k)] for k in source.allowed[near.argsort(descending=True)]]
        assert order[0] == old and new in order[1:11]


def test_deletion_and_swap():
    rows = [Row(0, ("one two three four five",), 0)] * 60
    made = GENERATORS["edit"](TASK, rows, 0.2, np.random.default_rng(0))
    words = rows[0].texts[0].split()
    swaps = {" ".join([*words[:k], words[k + 1], words[k], *words[k + 2 :]]) for k in range(4)}
    kept = {" ".join([*words[:k], *words[k + 1 :]]) for k in range(5)}
    found = {" ".join(row.texts[0].split()) for row in made}
    assert found <= swaps | kept and found & swaps and found & kept
    assert GENERATORS["edit"](TASK, [Row(0, ("one",), 0)], 0.2, np.random.default_rng(0)) == [None]


# ------------------------------------------------------------------------------------ labels of S


def judge(rows: list[Row]) -> np.ndarray:
    """Sure of rows with `good`; unsure of those with `new`."""
    yes = np.array(
        [0.9 if "good" in r.texts[0] else 0.6 if "new" in r.texts[0] else 0.1 for r in rows]
    )
    return np.stack([1 - yes, yes], 1)


def numbered(rows: list[Row], random) -> list[Row | None]:
    """A generator that numbers the rows it gets; three in ten it cannot change."""
    return [
        None
        if random.random() < 0.3
        else replace(r, texts=(f"{r.texts[0]} {random.integers(999)}",))
        for r in rows
    ]


SOURCES = [
    Row(k, (f"a {'good' if k < 5 else 'new' if k < 10 else 'bad'} row",), int(k < 10))
    for k in range(40)
]


@pytest.mark.parametrize("soft", [False, True])
def test_rows_are_labelled_by_s_and_balanced(soft):
    taken = {(f"a bad row {k}",) for k in range(500)}
    known = set(taken)
    found = generate_rows(TASK, SOURCES, 100, numbered, Labelling(judge, 0.8, soft), known, (0,))
    assert len(found) == 100 and len({normalize_texts(each.row) for each in found}) == 100
    for each in found:
        assert normalize_texts(each.row) not in taken and each.row.texts[0].startswith(
            each.source.texts[0]
        )
        expected = judge([each.row])[0]
        assert each.row.label == (tuple(expected) if soft else int(expected[1] > 0.5))
        assert each.confidence == expected.max() and (soft or each.confidence >= 0.8)
    counts = Counter(to_hard(each.row.label) for each in found)
    assert counts == {0: 50, 1: 50}
    assert any("new" in each.row.texts[0] for each in found) == soft  # S is unsure of those


def test_too_few_rows_are_no_endless_loop():
    known: set = set()
    found = generate_rows(
        TASK,
        SOURCES,
        100,
        lambda rows, _: [None] * len(rows),
        Labelling(judge, 0.8, False),
        known,
        (0,),
    )
    assert found == []
    same = lambda rows, _: [replace(row, texts=("good",)) for row in rows]  # noqa: E731
    assert (
        len(generate_rows(TASK, SOURCES, 100, same, Labelling(judge, 0.8, False), known, (0,))) == 1
    )


# ------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def csv(tmp_path_factory) -> Path:
    """A word decides most labels."""
    folder = tmp_path_factory.mktemp("csv")
    for name, count in (("train", 160), ("val", 40)):
        random = np.random.default_rng(count)
        lines = []
        for k in range(count):
            a, b = random.choice(WORDS, 2)
            word, label = ("good", "yes") if k % 2 else ("bad", "no")
            if k % 9 == 0:  # so that there are mistakes
                label = "no" if label == "yes" else "yes"
            lines.append(f"{name} the {a} and the {b} were {word},{label}")
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def given(encoder, csv) -> list[str]:
    given = ["experiment=agora", "task=custom", f"model={encoder}", f"teacher.name={encoder}"]
    given += [f"data.train={csv / 'train.csv'}", f"data.val={csv / 'val.csv'}"]
    given += ["trainer=cpu", "trainer.max_epochs=3", "optim.lr=1e-2"]
    given += ["data.length=64", "agora.guard=0.6", "agora.samples=20", "dropout=0"]
    given += ["data.batch_size=4"]
    given += ["agora.grid={lr_factor: [0.1, 1], seed: [0]}", "agora.confidence=0.5"]
    return given


@pytest.fixture(scope="module")
def run_of(given):
    def make(*overrides: str) -> TrainConfig:
        words = [*given, "name=test", "output_dir=unused", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return parse_settings(compose("train", words))

    return make


@pytest.fixture(scope="module")
def whole(run_of, tmp_path_factory) -> tuple[Path, dict, list[str]]:
    folder, lines = tmp_path_factory.mktemp("whole") / "run", log_lines()
    return folder, agora_run.agora(run_of(), folder), lines


def test_what_a_run_leaves(whole, run_of, csv):
    folder, summary, lines = whole
    assert RunFolder(folder).find_summary() == summary
    assert summary["trainings"] == 3 and summary["rounds"] == 2 and summary["generated"] == 20
    arms = ("default", "plain", "random", "agora")
    steps = {arm: summary[f"{arm}/steps"] for arm in arms}
    assert steps["plain"] == steps["random"] == steps["agora"] == summary["steps"]
    assert (
        steps["default"]
        == RunFolder(folder / "rounds/1/theta_1").find_summary()["steps"]
        < summary["steps"]
    )
    assert f"{steps['plain']:,} plain, all of Θ" in agora_page.judge_agora(summary)
    kept = sorted(path.parent.relative_to(folder) for path in folder.rglob("model"))
    assert Path() in kept
    model, labels = load_classifier(folder)
    assert labels == {0: "no", 1: "yes"}
    task, rows = load_task("custom", run_of().data)
    examples = encode_examples(task, rows, load_tokenizer(folder), 64)
    found = answer_split(model, examples, "val")
    labels = np.array([row.label for row in rows["val"]])
    assert summary["val/accuracy"] == (found == labels).mean()
    made = [json.loads(line) for line in (folder / "generated.jsonl").read_text().splitlines()]
    assert len(made) == 20 and {row["label"] for row in made} <= {"yes", "no"}
    assert any(line.startswith("  round 2, θ 1 of 1") for line in lines)


def test_data_that_changed_after_the_end(whole, run_of, csv, tmp_path):
    """A finished run is not one on other rows; a file that was only touched changes nothing."""
    folder, path = tmp_path / "run", csv / "train.csv"
    shutil.copytree(whole[0], folder)
    content = path.read_text()
    try:
        os.utime(path, (1, 1))
        assert agora_run.agora(run_of(), folder) == whole[1]
        path.write_text(content.replace("train the", "train one", 1))
        with pytest.raises(BortError, match="was started on other text"):
            agora_run.agora(run_of(), folder)
    finally:
        path.write_text(content)
        os.utime(path, (1, 1))


def test_a_callback_that_watches_no_score(run_of, tmp_path):
    stop = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/los"}
    with pytest.raises(BortError, match="callbacks.a.monitor=val/los is no score of this run; did"):
        agora_run.agora(replace(run_of(), callbacks={"a": stop}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_page(whole):
    """The arms as summary.json has them, the verdict, every training as a point."""
    folder, summary, _ = whole
    report.write(folder)
    text = (folder / "report.html").read_text()
    cells = [unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", text)]
    for arm, label in (*ARMS.items(), ("teacher", "S, the judge")):
        prefix = "" if arm == "agora" else f"{arm}/"
        place = cells.index(label)
        assert cells[place + 1] == f"{summary[f'{prefix}val/accuracy']:.4f}"
        assert cells[place + 3] == f"{summary[f'{prefix}eval/accuracy']:.4f}"
    controls = [summary[f"{arm}/val/accuracy"] for arm in ("plain", "random")]
    assert f"({summary['val/accuracy'] - max(controls):+.4f})" in text
    rounds = json.loads((folder / "rounds.json").read_text())["rounds"]
    with (folder / "metrics.csv").open(newline="") as file:
        points, line = agora_page.plot_rounds(list(csv_module.DictReader(file)), rounds).data
    assert list(points.x) == [1, 1, 2]
    assert list(line.y) == [max(each["scores"].values()) for each in rounds]
    assert "Rows that were generated" in text and "<script src" not in text


def test_generated_rows_are_nowhere_else(whole, csv):
    folder, _, _ = whole
    files = "".join((csv / f"{name}.csv").read_text() for name in ("train", "val"))
    official = {" ".join(line.split(",")[0].split()).lower() for line in files.splitlines()}
    paths = [*folder.glob("rounds/*/rows.jsonl"), folder / "random" / "rows.jsonl"]
    assert len(paths) == 2
    for path in paths:
        texts = [json.loads(line)["texts"][0] for line in path.read_text().splitlines()]
        assert len(texts) == len(set(texts)) == 20
        assert not {" ".join(text.split()).lower() for text in texts} & official


def test_arms_have_equal_steps_and_the_same_d_and_e(whole):
    """Steps of each arm as its own trainings counted them."""
    folder, summary, _ = whole
    steps = {
        arm: sum(
            RunFolder(path.parent).find_summary()["steps"]
            for path in folder.glob(f"{arm}/**/summary.json")
        )
        for arm in ("rounds", "plain", "random", "default")
    }
    assert steps["rounds"] == steps["plain"] == steps["random"] == summary["steps"]
    rows = [each["rows"] for each in json.loads((folder / "rounds.json").read_text())["rounds"]]
    assert steps["default"] == 0  # it is θ 1 of round 1, as its scores say
    own = RunFolder(folder / "rounds/1/theta_1").find_summary()
    assert summary["default/eval/accuracy"] == own["eval/accuracy"]
    assert own["steps"] == 3 * math.ceil(rows[0] / 4)
    assert rows[1] == rows[0] + 20
    for arm in ("default", "plain", "random"):
        assert {f"{arm}/val/accuracy", f"{arm}/eval/accuracy"} <= set(summary)


def test_how_sure_s_must_be(whole, run_of):
    """Of three quarters of E it is as sure, by its own answers."""
    folder, summary, _ = whole
    task, rows = load_task("custom", run_of().data)
    _, E = split_rows(task, rows["train"], 0.2)
    model, _ = load_classifier(folder / "teacher")
    sure = Judge(task, model, load_tokenizer(folder / "teacher"), [0, 1], 64)(E).max(-1)
    least = summary["teacher/eval/confidence"]
    assert (sure > least).mean() <= 0.75 <= (sure >= least).mean()  # equal rows are equally sure


def test_sources_are_mistakes_or_else_hard(whole, run_of):
    """Rows of round 2 come from what the best model of round 1 gets wrong, counted outside."""
    folder, _, lines = whole
    task, rows = load_task("custom", run_of().data)
    D, E = split_rows(task, rows["train"], 0.2)
    model, _ = load_classifier(next(folder.glob("rounds/1/*/model")))
    found = answer_split(model, encode_examples(task, {"D": D}, load_tokenizer(folder), 64), "D")
    wrong = [row for row, answer in zip(D, found, strict=True) if answer != row.label]
    most = max(len(wrong), math.ceil(0.1 * len(D)))
    said = f"round 2: {len(wrong)} mistakes on D; rows are made from the {most} hardest"
    assert said in lines and wrong
    made = [json.loads(x) for x in (folder / "rounds/2/rows.jsonl").read_text().splitlines()]
    sources = {tuple(row["source"]) for row in made}
    assert len(sources) <= most and sources & {row.texts for row in wrong}
    if most == len(wrong):
        assert sources <= {row.texts for row in wrong}
    assert not sources & {row.texts for row in E}


def test_labels_are_those_of_s(whole, run_of):
    folder, _, _ = whole
    task, _ = load_task("custom", run_of().data)
    model, labels = load_classifier(folder / "teacher")
    s = Judge(task, model, load_tokenizer(folder / "teacher"), [0, 1], 64)
    rows = read_generated(folder / "rounds" / "2" / "rows.jsonl", TASK)
    assert labels == {0: "no", 1: "yes"}
    assert [row.label for row in rows] == s(rows).argmax(-1).tolist()


@pytest.mark.parametrize("step", [2, 8, 27])
def test_killed_and_repeated(whole, run_of, tmp_path, monkeypatch, step):
    """In S, in a round, or before a control arm: the model of the undisturbed run."""
    folder, summary, _ = whole
    fit, count = candidate.train_classifier, iter(range(99))

    def dying(run, *args):
        if next(count) == step // 6:
            run = stopping(run, step % 6 + 1)
        return fit(run, *args)

    monkeypatch.setattr(candidate, "train_classifier", dying)
    with pytest.raises(SystemExit):
        agora_run.agora(run_of(), tmp_path / "run")
    monkeypatch.undo()
    again = agora_run.agora(run_of(), tmp_path / "run")
    for name in ("model/model.safetensors", "rounds.json", "generated.jsonl", "metrics.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()
    times = {"seconds", "tokens_per_s"}
    assert {k: v for k, v in again.items() if k not in times} == {
        k: v for k, v in summary.items() if k not in times
    }


def test_a_launcher_finds_the_same(whole, given, tmp_path):
    """Trainings of a round in processes of joblib's launcher, by the command line."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "name=far"]
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "train.py"), *given, *launcher],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 trainings go to the launcher") == 2  # both controls
    assert "what did Agora bring?" in result.stdout
    for name in ("model/model.safetensors", "rounds.json", "generated.jsonl", "metrics.csv"):
        found = tmp_path / "runs" / "agora" / "far" / name
        assert found.read_bytes() == (whole[0] / name).read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ["agora.labels=soft", "agora.generator=edit", "agora.prune=lcs"],
        ["agora.generator=nearest", "agora.mistakes=eval", "agora.replays=0"],
    ],
)
def test_other_settings(run_of, tmp_path, overrides):
    summary = agora_run.agora(run_of(*overrides), tmp_path / "run")
    assert summary["generated"] == 20 and 0 <= summary["val/accuracy"] <= 1
    rows = read_generated(tmp_path / "run" / "rounds" / "2" / "rows.jsonl", TASK)
    soft = "agora.labels=soft" in overrides
    assert all(isinstance(row.label, tuple if soft else int) for row in rows)


def test_numbers(encoder, tmp_path, run_of):
    """Regression: S is not guarded, its numbers are the labels, cut to the scale."""
    text = "".join(f"the {WORDS[k % 6]} were good {k},{k / 40}\n" for k in range(120))
    (tmp_path / "a.csv").write_text("text,label\n" + text)
    run = run_of(f"data.train={tmp_path / 'a.csv'}", "data.val=null", "data.kind=number")
    summary = agora_run.agora(run, tmp_path / "run")
    assert "teacher/eval/balanced_accuracy" not in summary and "val/pearson" in summary
    rows = read_generated(tmp_path / "run" / "rounds" / "2" / "rows.jsonl", NUMBERS)
    assert rows and all(isinstance(r.label, float) and 0 <= r.label <= 119 / 40 for r in rows)


@pytest.mark.parametrize(
    ("name", "file", "lines"),
    [
        ("glue/rte", "RTE.tsv", 61),
        ("superglue/wic", "WiC.jsonl", 60),
        ("superglue/copa", "COPA.jsonl", 60),
    ],
)
def test_official_tasks(shared, run_of, tmp_path, monkeypatch, name, file, lines):
    """Pairs, spans and choices through a whole run, each with its submission file."""
    read = reading.read_rows
    monkeypatch.setattr(
        reading, "read_rows", lambda *given: {k: v[:60] for k, v in read(*given).items()}
    )
    run = run_of(
        *(f"task={name}", f"data.root={shared / 'data' / name.split('/')[0]}", "agora.guard=0"),
        *("trainer.max_epochs=1", "data.length=160"),
    )
    summary = agora_run.agora(run, tmp_path / "run")
    assert summary["generated"] > 0
    assert len((tmp_path / "run" / "predictions" / file).read_text().splitlines()) == lines


# ------------------------------------------------------------------------------------ mistakes


def test_s_is_the_teacher_of_the_pre_training(run_of, encoder, tmp_path):
    """Which the summary of the candidate's run names."""
    run = run_of(f"model={tmp_path / 'run'}", "teacher.name=null")
    write_json(tmp_path / "run" / "summary.json", {"teacher": str(encoder)})
    assert find_teacher_source(run) == str(encoder)
    assert find_teacher_source(replace(run, model=f"{run.model}/model")) == str(encoder)
    write_json(tmp_path / "run" / "summary.json", {"val/loss": 1.0})
    with pytest.raises(BortError, match="does not say who taught it; set agora.teacher="):
        find_teacher_source(run)


def test_an_s_that_is_no_judge(run_of, tmp_path, whole, shared):
    with pytest.raises(BortError, match=r"balanced accuracy of 0.\d+ on E \(chance is 0.500\)"):
        agora_run.agora(run_of("trainer.max_epochs=1", "agora.guard=0.99"), tmp_path / "a")
    run = run_of("task=glue/rte", f"data.root={shared / 'data/glue'}", f"agora.teacher={whole[0]}")
    with pytest.raises(BortError, match="has the labels no, yes, glue/rte needs entailment"):
        agora_run.agora(run, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_tasks_that_cannot_be_generated(run_of, tmp_path, shared):
    roots = {suite: f"data.root={shared / 'data' / suite}" for suite in ("glue", "superglue")}
    for task, message in (
        ("glue/ax", "task=glue/ax has no training rows; use task=glue/mnli"),
        ("superglue/record", "agora cannot make rows of superglue/record"),
    ):
        with pytest.raises(BortError, match=message):
            agora_run.agora(run_of(f"task={task}", roots[task.split("/")[0]]), tmp_path / "x")


def test_a_generator_without_a_masked_lm(run_of, encoder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    weights = load_file(folder / "model.safetensors")
    weights = {k: v for k, v in weights.items() if not k.startswith("cls.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    run = run_of(f"model={folder}", f"teacher.name={folder}")
    with pytest.raises(BortError, match="agora.generator=mlm: .* no masked-LM head; set agora.mlm"):
        agora_run.agora(run, tmp_path / "run")
    run = run_of("teacher.name=null")
    with pytest.raises(BortError, match="does not say who taught it; set agora.teacher="):
        agora_run.agora(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"texts": ["a"], "label": 2, "spans": [], "index": 0}',
     '{"texts": ["a", "b"], "label": 0, "spans": [], "index": 0}',
     '{"texts": [1], "label": 0, "spans": [], "index": 0}',
     '{"texts": ["a"], "label": [0.1], "spans": [], "index": 0}',
     '{"texts": ["a"], "label": 0, "spans": [1], "index": 0}',
     '{"texts": null, "label": 0, "spans": [], "index": 0}', "[" * 100_000],
)  # fmt: skip
def test_damaged_rows_are_one_line(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    good = '{"texts": ["a"], "label": 1, "spans": [], "index": 0}'
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(BortError, match=r"rows\.jsonl, line 2: ") as error:
        read_generated(path, TASK)
    assert "\n" not in str(error.value)
    path.write_bytes(b"\xff")
    with pytest.raises(BortError, match="cannot be read: not UTF-8"):
        read_generated(path, TASK)
    with pytest.raises(BortError, match="cannot be read"):
        read_generated(tmp_path / "nowhere", TASK)


def test_pages_of_damaged_runs_are_one_line(whole, tmp_path):
    """Each file of the page cut, emptied, or of another type: a page, or one line about it."""
    folder, summary, _ = whole
    refused = 0
    for name in ("rounds.json", "generated.jsonl", "metrics.csv"):
        content = (folder / name).read_bytes()
        damages = [content[: len(content) // 2], b"", b"[]", b"5\n", b"{}\n", b"[" * 100_000]
        damages += [b'{"rounds": 5}', b'{"rounds": [{"best": 1}]}', b"\xff", b"step,round\n1,x\n"]
        for damage in damages:
            for file in ("rounds.json", "generated.jsonl", "metrics.csv"):
                (tmp_path / file).write_bytes((folder / file).read_bytes())
            (tmp_path / name).write_bytes(damage)
            try:
                list(agora_page.build_parts(tmp_path, summary))
            except BortError as error:
                refused += 1
                assert str(tmp_path) in str(error) and "\n" not in str(error)
    assert refused > 20
    with pytest.raises(BortError, match=r"summary\.json is damaged"):
        list(agora_page.build_parts(tmp_path, {"metric": 5}))
