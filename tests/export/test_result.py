"""What the checks of an export found: the same JSON as ever, and back again."""

from dataclasses import FrozenInstanceError

import pytest

from bort.export.result import ExportResult

RESULT = ExportResult("onnx-int8", 0.5, agreement=0.975, compared=1000, answers="rows of glue/rte")


def test_a_result_is_the_content_of_export_json_and_back():
    record = RESULT.to_json()
    assert list(record) == [
        *("format", "largest_difference", "agreement", "error", "spread", "compared", "answers"),
        *("float32", "scores", "parameters", "cosine", "task", "columns", "labels"),
    ]
    assert ExportResult.from_json(record | {"made_by": "bort 0.1", "files": ["x"]}) == RESULT
    with pytest.raises(FrozenInstanceError):
        RESULT.compared = 0


def test_a_file_of_an_older_version_may_say_less():
    assert ExportResult.from_json({"format": "hf", "largest_difference": 1e-7}).parameters is None


def test_scores_are_paired_by_their_metric():
    scores = {"before/f1": 0.5, "before/accuracy": None, "after/f1": 0.4, "after/accuracy": 0.3}
    result = ExportResult("onnx", 0.0, scores=scores)
    assert list(result.paired_scores()) == [("f1", 0.5, 0.4), ("accuracy", None, 0.3)]
    assert list(RESULT.paired_scores()) == []
