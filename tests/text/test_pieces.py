"""What the three kinds of vocabularies are built of, on small ones that were written by hand."""

import pytest

from bort.errors import BortError
from bort.text.pieces import read_pieces


def bpe(vocab: str, merges: str, **model) -> dict:
    words = vocab.split()
    return {
        "pre_tokenizer": model.pop("pre_tokenizer", None),
        "normalizer": None,
        "model": {
            "type": "BPE",
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": [merge.split("+") for merge in merges.split()],
            **model,
        },
    }


def test_a_merged_token_needs_the_two_that_were_merged():
    pieces = read_pieces(bpe("a b c ab abc bc", "a+b ab+c b+c"), "x")
    assert pieces.list_parts("abc") == ("ab", "c") and pieces.list_parts("a") == ()
    assert pieces.split("abc", {"ab", "c"}) == ["ab", "c"]
    assert pieces.split("abc", {"a", "c"}) is None and pieces.split("a", {"b"}) is None
    assert pieces.list_letters(["abc", "b"]) == {"a", "b", "c"}
    assert pieces.list_letters(["b"]) == {"b"}
    ids = {"a": 0, "b": 1, "c": 2, "ab": 3}
    assert pieces.select({"a", "b", "c", "ab"}, ids) == {"vocab": ids, "merges": [["a", "b"]]}


def test_of_several_merges_the_letters_decide():
    """abc is a + bc here, since b + c comes before a + b; abd cannot be reached by its letters."""
    merges = "b+c ab+c a+bc a+b b+d ab+d"
    pieces = read_pieces(bpe("a b c d ab abc abd bc bd", merges), "x")
    assert pieces.list_parts("abc") == ("a", "bc")
    pieces = read_pieces(bpe("a b c d ab abd bd abc bc", "b+d a+b ab+d ab+c b+c a+bc"), "x")
    assert pieces.list_parts("abc") == ("ab", "c")
    pieces = read_pieces(bpe("a b c ab abab aba", "a+b aba+b ab+ab ab+a"), "x")
    assert pieces.list_parts("abab") == ("ab", "ab")


def test_merges_know_continuations_and_the_end_of_a_word():
    settings = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
    vocab = "a ##b ##c</w> a</w> ab ##bc</w> abc</w>"
    pieces = read_pieces(bpe(vocab, "##b+##c</w> a+##b a+##bc</w>", **settings), "x")
    assert pieces.list_parts("abc</w>") == ("a", "##bc</w>")
    assert pieces.list_parts("ab") == ("a", "##b")
    assert pieces.list_letters(["abc</w>", "a</w>"]) == {"a", "##b", "##c</w>", "a</w>"}
    several = read_pieces(
        bpe(f"{vocab} ##b</w>", "a+##b ##b+##c</w> ab+##c</w> a+##bc</w>", **settings), "x"
    )
    assert several.list_parts("abc</w>") == ("ab", "##c</w>")


def test_bytes_stay_whatever_the_text_is():
    steps = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}
    pieces = read_pieces(bpe("a Ġ é ab ☃", "a+b", pre_tokenizer=steps), "x")
    assert pieces.list_letters([]) == {"a", "Ġ", "é"}
    pieces = read_pieces(bpe("a <0x00> <0xFF> <0xfg>", "", byte_fallback=True), "x")
    assert pieces.list_letters([]) == {"<0x00>", "<0xFF>"}


def test_words_are_cut_from_the_left_into_the_longest():
    words = "[UNK] un ##able ##a ##b u ##n able abl ##le ##l ##e unable"
    model = {"type": "WordPiece", "continuing_subword_prefix": "##"}
    model["vocab"] = {word: number for number, word in enumerate(words.split())}
    pieces = read_pieces({"model": model}, "x")
    assert pieces.split("unable", model["vocab"]) == ["un", "##able"]
    assert pieces.split("##able", model["vocab"]) == ["##a", "##b", "##le"]
    assert pieces.split("unable", model["vocab"].keys() - {"un", "##able", "##le"}) == (
        ["u", "##n", "##a", "##b", "##l", "##e"]
    )
    assert pieces.split("abl", model["vocab"]) is None and pieces.list_parts("unable") == ()
    assert pieces.list_letters(["un", "##ab", "zu"]) == {"u", "##n", "##a", "##b"}
    assert pieces.select({"un"}, {"un": 4}) == {"vocab": {"un": 4}}


def test_pieces_are_cut_by_their_scores():
    scores = {"<unk>": 0, "▁": -3, "a": -4, "b": -4, "ab": -7, "▁a": -5.5, "▁ab": -5}
    model = {"type": "Unigram", "unk_id": 0, "vocab": [list(pair) for pair in scores.items()]}
    pieces = read_pieces({"model": model}, "x")
    assert pieces.split("▁ab", scores) == ["▁a", "b"]
    assert pieces.split("▁ab", {"▁", "ab", "a", "b"}) == ["▁", "ab"]
    assert pieces.split("▁ab", {"▁", "a", "b"}) == ["▁", "a", "b"]
    assert pieces.split("ab", {"a"}) is None
    assert pieces.list_letters(["▁ab"]) == {"▁", "a", "b"}
    ids = {"<unk>": 0, "b": 1}
    assert pieces.select({"<unk>", "b"}, ids) == {"vocab": [["<unk>", 0], ["b", -4]], "unk_id": 0}


def test_other_kinds_are_refused_in_a_line():
    content = {"model": {"type": "WordLevel", "vocab": {"a": 0}}}
    with pytest.raises(BortError, match="tokenizer x is of the kind WordLevel, whose vocab"):
        read_pieces(content, "x")
