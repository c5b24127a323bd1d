"""The stream of a split: separators between documents only, counts, and documents that are kept."""

import numpy as np

from bort.text.token_stream import TokenStream, locate_documents, pad_documents

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


def test_documents_are_padded_or_cut():
    stream = np.array([5, 6, SEP, 7, SEP, 8, 8, 9, 8, 8], dtype=np.uint16)
    bounds = locate_documents(stream, SEP)
    assert bounds.tolist() == [-1, 2, 4, 10]
    ids, mask = pad_documents(stream, bounds, np.array([1, 2, 0]), 6, (1, SEP, 0))
    assert ids.tolist() == [[1, 7, SEP, 0, 0, 0], [1, 8, 8, 9, 8, SEP], [1, 5, 6, SEP, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1] * 6, [1, 1, 1, 1, 0, 0]]
    ids, mask = pad_documents(stream, bounds, np.array([0, 1]), 6, (1, SEP, 0))
    assert ids.tolist() == [[1, 5, 6, SEP], [1, 7, SEP, 0]] and mask.sum() == 7
    assert locate_documents(stream[:0], SEP).tolist() == [-1]
    assert pad_documents(stream, bounds, np.array([], int), 6, (1, SEP, 0))[0].shape == (0, 2)
