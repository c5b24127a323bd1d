"""Examples of a task: inputs of every split, validation sets by name, a digest of the content."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from bort.errors import BortError
from bort.finetuning.examples import (
    TaskExamples,
    check_class_weights,
    encode_examples,
    hash_rows,
    weigh_classes,
)
from bort.models.huggingface import load_tokenizer
from bort.tasks.registry import find_task
from bort.tasks.task import Row

ROWS = {
    "train": [Row(0, ("the cat of line 1", "the dog"), 0), Row(1, ("and so", "on"), 1)],
    "val_matched": [Row(2, ("the dog of line 2", "a cat"), 2)],
    "val_mismatched": [Row(3, ("so on", "a"), 0)],
}


def test_every_split_is_encoded_as_the_tokenizer_itself_does(model):
    tokenizer = load_tokenizer(model)
    examples = encode_examples(find_task("glue/mnli"), ROWS, tokenizer, 64)
    assert list(examples.inputs) == list(ROWS) and examples.rows == ROWS
    for split, rows in ROWS.items():
        found = [inputs[0].tolist() for inputs in examples.inputs[split].input_ids]
        assert found == [tokenizer(*row.texts)["input_ids"] for row in rows]
    assert examples.pad_id == tokenizer.convert_tokens_to_ids(tokenizer.pad_token)


def test_validation_rows_are_those_of_both_sets(model):
    examples = encode_examples(find_task("glue/mnli"), ROWS, load_tokenizer(model), 64)
    assert examples.validation_rows == {name: ROWS[name] for name in list(ROWS)[1:]}


def test_an_input_has_at_most_the_length_given(model):
    rows, tokenizer = {"train": [Row(0, ("the cat " * 50, "the dog"), 0)]}, load_tokenizer(model)
    examples = encode_examples(find_task("glue/mnli"), rows, tokenizer, 16)
    assert examples.inputs["train"].lengths.tolist() == [16] and examples.inputs["train"].cut == 1
    with pytest.raises(BortError):
        encode_examples(find_task("glue/mnli"), rows, tokenizer, 2)  # special tokens alone are more


def test_the_digest_changes_with_any_content_and_with_the_order():
    row = Row(0, ("a", "b"), 1, spans=((0, 1),))
    changed = [
        [replace(row, index=1)],
        [replace(row, texts=("ab", ""))],
        [replace(row, label=0)],
        [replace(row, spans=((0, 2),))],
        [row, row],
    ]
    digests = [hash_rows({"train": rows}) for rows in ([row], *changed)]
    digests += [hash_rows({"val": [row]})]
    digests += [hash_rows({"train": rows}) for rows in ([row, changed[0][0]], [changed[0][0], row])]
    assert len(set(digests)) == len(digests)
    assert hash_rows({"train": [replace(row)]}) == digests[0]
    # runs and caches keep the digest: it may never change for the same rows
    assert digests[0] == "a309ffd5425d62ff"


@pytest.mark.parametrize("labels", [[0, 1, 2, 2, 2, 1], [2] * 9 + [0], [1, 1]])
def test_balanced_weights_are_those_of_scikit_learn(labels):
    """Of a class that no training row has, the weight is 0; that of a row is 1 on average."""
    rows = {"train": [Row(k, ("x", "y"), label) for k, label in enumerate(labels)]}
    weights = weigh_classes(TaskExamples(find_task("glue/mnli"), None, 64, rows, {})).tolist()
    present = sorted(set(labels))
    expected = compute_class_weight("balanced", classes=np.array(present), y=labels)
    assert [weights[label] for label in present] == pytest.approx(expected.tolist())
    assert all(weights[label] == 0 for label in {0, 1, 2} - set(present))
    assert sum(weights[label] for label in labels) / len(labels) == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "answers"),
    [("glue/stsb", "numbers"), ("race/high", "choices"), ("superglue/copa", "choices")],
)
def test_what_has_no_classes_takes_no_weights(name, answers):
    task = find_task(name)
    check_class_weights(task, None)
    line = f"optim.class_weights=balanced is for classes; task={name} has {answers}"
    with pytest.raises(BortError, match=line):
        check_class_weights(task, "balanced")
    with pytest.raises(BortError, match=line):
        weigh_classes(TaskExamples(task, None, 64, {"train": [Row(0, ("x",), 0)]}, {}))
    check_class_weights(find_task("superglue/wic"), "balanced")
