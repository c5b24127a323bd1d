"""The rules that both predictors share: what is read together, and how answers are spelled."""

import json

from bort.export import rules


def test_batches_hold_rows_of_similar_length_and_few_tokens():
    lengths = [3, 500, 4, 512, 5, 499, 6]
    found = list(rules.form_batches(lengths, most=3, tokens=1000))
    assert found == [[0, 2, 4], [6, 5], [1], [3]]
    assert list(rules.form_batches([9000], tokens=4096)) == [[0]]
    assert list(rules.form_batches([])) == []


def test_many_words_of_an_answer_are_kept_for_few_texts():
    texts = [str(k) for k in range(3000)]
    for top, size in ((5, 1024), (1000, 102), (10**9, 1)):
        found = list(rules.split_blocks(texts, top))
        assert len(found[0]) == size and [text for block in found for text in block] == texts


def test_answers_on_a_screen_that_lacks_letters_are_still_json():
    """JSON has an escape for each of them."""
    answer = {"label": "😀 Straße", "score": 0.5}
    assert rules.to_json_line(answer, "utf-8") == '{"label": "😀 Straße", "score": 0.5}'
    line = rules.to_json_line(answer, "cp1252")
    assert json.loads(line.encode("cp1252")) == answer
