"""The stream of a split: separators between documents only, counts, and documents that are kept."""

import numpy as np

from bort.text.token_stream import TokenStream

SEP = 3


def build_stream(path, documents, dtype=np.uint16) -> TokenStream:
    stream = TokenStream(path, dtype, 10, SEP)
    for ids in documents:
        stream.add(np.array(ids))
    return stream


def test_documents_have_a_separator_between_them(tmp_path):
    stream = build_stream(tmp_path / "train.bin", [[5, 6], [7], [8, 8, 9]])
    assert stream.write() == 8
    assert np.fromfile(tmp_path / "train.bin", np.uint16).tolist() == [5, 6, 3, 7, 3, 8, 8, 9]
    assert stream.ends.tolist() == [2, 4, 8]
    assert stream.counts.tolist() == [0, 0, 0, 2, 0, 1, 1, 1, 2, 1]


def test_it_does_not_matter_when_the_stream_is_written(tmp_path):
    documents = [[5, 6], [7], [8, 8, 9], [4]]
    whole = build_stream(tmp_path / "whole.bin", documents, np.uint32)
    whole.write()
    parts = TokenStream(tmp_path / "parts.bin", np.uint32, 10, SEP)
    assert parts.write() == 0  # nothing was added yet
    sizes = []
    for ids in documents:
        parts.add(np.array(ids))
        sizes.append(parts.write())
    assert sizes == [2, 4, 8, 10]
    assert (tmp_path / "parts.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert parts.ends == whole.ends and np.array_equal(parts.counts, whole.counts)


def test_documents_that_are_kept_are_a_stream_of_their_own(tmp_path):
    stream = build_stream(tmp_path / "val.bin", [[5, 6], [7], [8, 8, 9], [4]])
    stream.write()
    stream.keep(np.array([False, True, False, True]))
    alone = build_stream(tmp_path / "alone.bin", [[7], [4]])
    alone.write()
    assert (tmp_path / "val.bin").read_bytes() == (tmp_path / "alone.bin").read_bytes()
    assert stream.ends == alone.ends and np.array_equal(stream.counts, alone.counts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.bin", "val.bin"]
    stream.keep(np.zeros(2, dtype=bool))
    assert (tmp_path / "val.bin").read_bytes() == b"" and not stream.counts.any()
