"""Groups of documents are in one split, and a long document gives a part to validation."""

import numpy as np
import pytest
from text_helpers import sentence

from bort.text.sources import Document
from bort.text.splits import GAP, LONG, split_document


def test_documents_of_a_group_are_in_one_split():
    rng = np.random.default_rng(4)
    documents = [Document(sentence(rng, 20), 0, f"file{k % 40}") for k in range(400)]
    sides = [split_document(document, 0.3)[0].split for document in documents]
    assert all(sides[k] == sides[k % 40] for k in range(400)) and set(sides) == {"train", "val"}


@pytest.mark.parametrize("space", [" ", ""])
def test_a_long_document_gives_a_part_to_validation(space):
    words = [f"w{k:06d}" for k in range(2 * LONG // 7)]
    text = space.join(words)
    before, held, after = split_document(Document(text, len(text)), 0.1)
    assert [part.split for part in (before, held, after)] == ["train", "val", "train"]
    assert abs(len(held.text) - 0.1 * len(text)) < GAP
    start = text.index(held.text)
    assert text.startswith(before.text) and text.endswith(after.text)
    assert GAP / 2 <= start - len(before.text) <= 2 * GAP
    assert GAP / 2 <= len(text) - len(after.text) - start - len(held.text) <= 2 * GAP
    if space:
        assert {*before.text.split(), *held.text.split(), *after.text.split()} < set(words)
    assert [part.text for part in split_document(Document(text, len(text)), 0.0)] == [text]
