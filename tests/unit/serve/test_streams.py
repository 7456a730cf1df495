"""Pieces of text: whole characters, nothing of a stop text, and together the whole text."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmas_ray.engine.decoding.stops import cut_at_stop
from latentmas_ray.engine.turn import NewTokens
from latentmas_ray.errors import RunError
from latentmas_ray.serve.teams.streams import ReplyTexts, StopHold
from latentmas_ray.system.serving import TextGrowth


def decode(ids: Sequence[int]) -> str:
    """Tokens are bytes."""
    return bytes(ids).decode(errors="replace")


def split(text: str, sizes: Sequence[int]) -> list[NewTokens]:
    ids, parts, begin = text.encode(), [], 0
    for size in [*sizes, len(ids)]:
        part = ids[begin : begin + size]
        if part:
            parts.append(NewTokens(token_ids=tuple(part), first=begin))
        begin += len(part)
    return parts


@given(st.text(), st.lists(st.integers(1, 3)))
def test_pieces_together_are_the_text(text: str, sizes: list[int]) -> None:
    growth = TextGrowth(decode)
    pieces = [growth.add(new) for new in split(text, sizes)]
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + growth.finish(text) == text


def test_a_text_that_is_written_again_goes_on_where_it_was() -> None:
    growth = TextGrowth(decode)
    assert growth.add(NewTokens(token_ids=tuple(b"abc"), first=0)) == "abc"
    assert growth.add(NewTokens(token_ids=tuple(b"ab"), first=0)) == ""
    assert growth.add(NewTokens(token_ids=tuple(b"cde"), first=2)) == "de"
    assert growth.finish("abcdef") == "f"


@pytest.mark.parametrize("new", [NewTokens(token_ids=(120,), first=1), NewTokens(token_ids=(120,), first=4)])
def test_another_text_than_before_is_an_error(new: NewTokens) -> None:
    growth = TextGrowth(decode)
    growth.add(NewTokens(token_ids=tuple(b"abc"), first=0))
    with pytest.raises(RunError):
        growth.add(new)


@given(st.lists(st.text("ab \n", max_size=4), max_size=12), st.lists(st.text("ab\n", min_size=1, max_size=3)))
def test_a_stop_text_is_never_shown(pieces: list[str], stops: list[str]) -> None:
    whole = "".join(pieces)
    hold = StopHold(stops)
    shown = "".join(map(hold.add, pieces)) + hold.finish("")
    assert shown == cut_at_stop(whole, stops)


def test_only_what_may_begin_a_stop_text_is_held_back() -> None:
    hold = StopHold(["END"])
    assert [hold.add(piece) for piece in ("one", " E", "N", "ough EN", "D two")] == ["one", " ", "", "ENough ", ""]
    assert hold.has_ended
    assert hold.finish(" three") == ""


def test_the_choices_of_a_reply_grow_apart() -> None:
    texts = ReplyTexts(["."], decode)
    for sample, text in ((1, b"on"), (0, b"yes"), (1, b"e.")):
        texts.add(NewTokens(token_ids=tuple(text), first=0 if text != b"e." else 2, sample=sample))
    assert [(piece.choice, piece.text) for piece in texts.finish(["yes!", "one.", "late"])] == [(0, "!"), (2, "late")]
