"""Errors of candidates against Hugging Face and plain products, and never below the entropy."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM

from bort.models.huggingface import load_masked_lm
from bort.pretraining.datamodule import ValBatches
from bort.pretraining.recipe import prepare
from bort.pretraining.teacher import locate_teacher
from bort.trials import error, inputs
from bort.trials.records import read_records


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


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("rows", "words"), [(1, 300_000), (3, 300_000), (131, 30_000), (0, 50)])
def test_a_few_rows_at_a_time_give_the_same_numbers(rows, words, threads):
    """Bit for bit those of all rows at once, with and without a thread that shares the work."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(2, rows, words, generator=generator) * 3
    labels = torch.randint(words, (rows,), generator=generator)
    before, target = torch.get_num_threads(), teacher.softmax(-1)
    torch.set_num_threads(threads)
    try:
        losses, surprisals = error.compare_answers(target, logits, labels)
        log_q = logits.log_softmax(-1)
        assert torch.equal(losses, -(target * log_q).sum(-1))
        assert torch.equal(surprisals, F.cross_entropy(logits, labels, reduction="none"))
    finally:
        torch.set_num_threads(before)


def test_what_memory_does_not_hold_is_computed_again(done, monkeypatch):
    """The errors are the same, bit for bit, and those of a plain product over all words."""
    run, folder, _, _, _ = done
    corpus, teacher = prepare(run)
    val = inputs.make_val_batches(corpus, run)
    first = read_records(folder)[0]
    model = load_masked_lm(folder / first.job.folder / "model").eval()
    inputs.forget_corpus_and_teacher()
    answers = inputs.open_answers(folder, teacher)
    assert inputs.open_answers(folder, teacher) is answers
    monkeypatch.setattr(error, "KEPT_BYTES", answers[0].nbytes)
    few = error.TeacherAnswers(teacher, answers.states, answers.entropy)
    plain = []
    with torch.no_grad():
        for number, batch in enumerate(val):
            logits = model(batch["input_ids"], positions=batch["positions"])
            p = error.compute_log_probabilities(teacher, answers.states, number).exp()
            plain.append(-(p * F.log_softmax(logits, -1)).sum(-1))
            assert torch.equal(few[number], answers[number])
            assert (few[number] is few[number]) == (number == 0) and answers[number] is answers[
                number
            ]
    expected = torch.cat(plain).numpy()
    assert np.array_equal(error.measure_scores(model, val, answers).losses, expected)
    assert np.array_equal(error.measure_scores(model, val, few).losses, expected)
    assert np.array_equal(np.load(folder / first.job.folder / "losses.npy"), expected)
