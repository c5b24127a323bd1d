"""What all candidates read: the same batches, and masked positions of known documents."""

from dataclasses import replace

import numpy as np
import torch

from bort.pretraining.datamodule import TrainBatches, ValBatches
from bort.pretraining.recipe import prepare
from bort.teachers.states import TeacherStates


def test_all_candidates_see_the_same_batches(done):
    """The kept states of T are those of the batch that a candidate trains on."""
    run, folder, _, _, _ = done
    corpus, teacher = prepare(run)
    states = TeacherStates(folder / "teacher" / f"train-s{run.seed}", 32)
    batches = TrainBatches(corpus, run.data, run.seed)
    assert len(states) == 6
    for k in range(6):
        live = teacher.compute_head_states(batches[k]["input_ids"], batches[k]["positions"])
        kept = torch.from_numpy(states[k]).float()
        torch.testing.assert_close(kept, live, atol=2e-3, rtol=2e-3)


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


def test_documents_of_all_tokens(done):
    """Each sequence holds the next 14 tokens of the text between two special ones."""
    run = done[0]
    corpus, _ = prepare(run)
    val = ValBatches(corpus, replace(run.data, val_sequences=10**6))
    ends = np.asarray(corpus.val) == corpus.tokenizer.sep_token_id
    owner = np.cumsum(ends) - ends
    expected = []
    for row in range(len(val.chosen)):
        inner = owner[row * 14 : row * 14 + 14].tolist()
        expected += [inner[0], *inner, inner[-1]]
    assert val.documents(is_of_tokens=True).tolist() == expected
    assert len(set(expected)) > 5
