"""Streams of text: detokenising, stop strings and reply clean-up never show what they must take back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from glm_runtime_torch.generation.detokenizer import IncrementalDetokenizer
from glm_runtime_torch.generation.stop import StopStrings
from glm_runtime_torch.tokenizers.reply_filter import FullWidthPunctuation, ReplyFilter, count_partial_match
from hypothesis import given, strategies as st


def decode_bytes(ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are single bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def decode_words(ids: Sequence[int]) -> str:
    """A tokenizer that, like SentencePiece, drops the blank before the first word."""
    return "".join(f" w{token}" for token in ids)[1:]


def split_at(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:stop] for start, stop in itertools.pairwise(bounds)]


@given(st.text(max_size=40))
def test_detokenizer_never_emits_half_a_character(text: str) -> None:
    """Bytes fed one by one give the text, and no delta but the last holds a replacement character."""
    detokenizer = IncrementalDetokenizer(decode_bytes)
    pieces = [detokenizer.feed(byte) for byte in text.encode()]
    assert "".join(pieces) + detokenizer.flush() == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


def test_detokenizer_keeps_blanks_between_pieces() -> None:
    """A leading blank that only appears after another piece is kept."""
    detokenizer = IncrementalDetokenizer(decode_words)
    assert "".join(detokenizer.feed(token) for token in (1, 2, 3)) == "w1 w2 w3"


def test_detokenizer_gives_up_on_bytes_that_never_become_a_character() -> None:
    """Broken bytes are shown after a while instead of holding back the rest of the answer."""
    detokenizer = IncrementalDetokenizer(decode_bytes)
    text = "".join(detokenizer.feed(byte) for byte in b"\xf0\x9f" + b"\xff" * 20)
    assert text
    assert detokenizer.flush() + text


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 99)),
)
def test_stop_strings_cut_before_the_first_match_however_the_text_is_split(
    text: str, strings: list[str], cuts: list[int]
) -> None:
    """What passes is the text before the earliest stop string found so far, in any split."""
    stop = StopStrings(strings)
    passed, stopped = "", False
    seen = ""
    for piece in split_at(text, cuts):
        seen += piece
        out, stopped = stop.feed(piece)
        passed += out
        if stopped:
            break
    if not stopped:
        passed += stop.flush()
    found = [seen.find(string) for string in strings if string in seen]
    assert stopped == bool(found)
    assert passed == (seen[: min(found)] if found else seen)


REPLY_ALPHABET = "中文a1 ,!:;?\n[训练时间]2"


def cleaned(text: str) -> str:
    return ReplyFilter({"[[训练时间]]": "2023年"}, FullWidthPunctuation()).feed(text, last=True)


@given(st.text(REPLY_ALPHABET, max_size=30), st.lists(st.integers(0, 99)))
def test_streamed_clean_up_equals_whole_clean_up(text: str, cuts: list[int]) -> None:
    """However a reply is split, the deltas together are the clean-up of the whole."""
    streaming = ReplyFilter({"[[训练时间]]": "2023年"}, FullWidthPunctuation())
    pieces = [streaming.feed(piece) for piece in split_at(text, cuts)]
    assert "".join(pieces) + streaming.feed("", last=True) == cleaned(text)


def test_ordinary_text_is_not_held_back() -> None:
    """Text whose form is settled is emitted at once, so streaming stays smooth."""
    streaming = ReplyFilter({"[[训练时间]]": "2023年"}, FullWidthPunctuation())
    assert streaming.feed("你好") == "你好"
    assert streaming.feed(",") == "，"
    assert streaming.feed("ok,") == "ok"
    assert streaming.feed("好") == "，好"


@pytest.mark.parametrize(
    ("text", "wanted", "length"),
    [("ab[", "[[x]]", 1), ("ab[[x]", "[[x]]", 4), ("ab", "[[x]]", 0), ("", "x", 0)],
)
def test_partial_match_length_is_the_longest_beginning(text: str, wanted: str, length: int) -> None:
    """The longest end of the text that could still grow into the wanted string."""
    assert count_partial_match(text, wanted) == length
