"""Outputs of a teacher in parts on disk: computed once, resumed, made again where damaged."""

import numpy as np
from tiny_runs import log_lines

from bort.teachers.kept_outputs import keep_in_parts

WORDS = ("reading", "read", "page")


def test_parts_are_computed_once(tmp_path):
    calls = []

    def compute(part):
        calls.append(list(part))
        return np.array(part, dtype=np.float32)[:, None]

    rows = list(range(12))
    expected = np.arange(12.0)[:, None]
    np.testing.assert_array_equal(keep_in_parts(tmp_path, rows, compute, WORDS, 5), expected)
    assert list(map(len, calls)) == [5, 5, 2]
    (tmp_path / "part_00001").write_bytes(b"damaged")
    lines = log_lines()
    np.testing.assert_array_equal(keep_in_parts(tmp_path, rows, compute, WORDS, 5), expected)
    assert calls[3:] == [[5, 6, 7, 8, 9]] and "teacher: 7 pages were read before" in lines


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / "file").write_text("")
    lines = log_lines()
    outputs = keep_in_parts(tmp_path / "file" / "x", [1, 2], np.array, WORDS)
    assert outputs.tolist() == [1, 2] and any("cannot be kept" in line for line in lines)
