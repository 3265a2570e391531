"""The nomenclature defines each word once, and forbids none that it defines."""

from __future__ import annotations

import re
from collections import Counter

from tests.architecture.source import ROOT


def test_each_word_is_defined_once_and_none_is_forbidden_too() -> None:
    text = (ROOT / "docs" / "nomenclature.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0].strip() != "word"]
    defined = Counter(word.strip() for row in rows for word in row[0].split(","))
    assert len(defined) > 50
    assert [word for word, times in defined.items() if times > 1] == []
    forbidden = {re.sub(r"\(.*\)", "", word).strip() for row in rows for word in row[2].split(",")}
    assert forbidden & set(defined) == set()
