"""A name that is not known, and the one that was meant."""

from __future__ import annotations

import pytest

from backends.suggestions import did_you_mean


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("vql", ["helmi", "vlq"], "vlq"),
        ("VLQ-1", ["helmi", "vlq"], "vlq"),
        ("h2o", ["H2", "H2O", "LiH"], "H2O"),
        ("metod", ["method", "noise"], "method"),
    ],
)
def test_the_most_alike_name_is_suggested(word, known, meant) -> None:
    assert did_you_mean(word, known) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize(("word", "known"), [("zzz", ["helmi", "vlq"]), ("a", []), ("", ["a"])])
def test_nothing_alike_is_no_suggestion(word, known) -> None:
    assert did_you_mean(word, known) == ""
