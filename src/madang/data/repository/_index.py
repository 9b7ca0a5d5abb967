"""Search over entries, inside of this process.

Every word of a query must be found in an entry. A word counts by where it is found (name, column,
tag, owner, description) and how: as the whole text, as a word of it, as a word's beginning, inside of
one, or with one typing error, which is looked for only when nothing else is found.

The text of each entry is scanned as one string, which is faster at this size than keeping an index of
words up to date: 10,000 datasets of 20 columns take about 10 ms (`benchmarks/processing.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from madang.data.repository.entries import KINDS, Entry, Match

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WEIGHTS = {"name": 10.0, "column": 4.0, "tag": 4.0, "owner": 3.0, "description": 2.0}
_WHOLE, _EXACT, _BEGIN, _INSIDE, _TYPO = 3.0, 1.0, 0.6, 0.3, 0.2
_TYPO_LETTERS = 4
"""From this length on a typing error is forgiven: shorter words have too many neighbours."""


def words(text: str) -> list[str]:
    """The words of a text, folded: `flightDelays_2013` has three."""
    return _WORD.findall(_HUMP.sub(" ", text).casefold())


@dataclass(frozen=True)
class _Field:
    """One text of an entry: `place` says what it is to the reader."""

    kind: str
    place: str
    text: str

    @cached_property
    def words(self) -> list[str]:
        return words(self.text)

    @cached_property
    def joined(self) -> str:
        return " ".join(self.words)


class _Document:
    """An entry, and its texts."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.fields = [_Field("name", "name", entry.name)]
        self.fields += [_Field("column", f"column {c.name}", c.name) for c in entry.columns]
        self.fields += [
            _Field("description", f"column {c.name}", c.description)
            for c in entry.columns
            if c.description
        ]
        for place, text in (("description", entry.description), ("owner", entry.owner)):
            if text:
                self.fields.append(_Field(place, place, text))
        self.fields += [_Field("tag", f"tag {k}", f"{k} {v}") for k, v in entry.tags.items()]
        # Humps are parted here as in the words, so that nothing is missed by the first look.
        self.text = _HUMP.sub(" ", "\n".join(one.text for one in self.fields)).casefold()

    def best(self, fits: Callable[[_Field], float]) -> tuple[float, str]:
        """The best place of a word, and how good it is; 0 where it is nowhere."""
        found, where = 0.0, ""
        for one in self.fields:
            score = fits(one) * _WEIGHTS[one.kind]
            if score > found:
                found, where = score, one.place
        return found, where


class Index:
    """Entries to search in. Safe for many threads: a change puts new lists in place of the old."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, str], _Document] = {}

    def replace(self, kind: str, entries: Iterable[Entry]) -> None:
        """Makes these the only entries of a kind; those that did not change cost nothing."""
        known = self._documents
        fresh = {key: one for key, one in known.items() if key[0] != kind}
        for entry in entries:
            old = known.get((kind, entry.name))
            fresh[kind, entry.name] = (
                old if old is not None and old.entry == entry else _Document(entry)
            )
        self._documents = fresh

    def get(self, kind: str, name: str) -> Entry | None:
        """One entry."""
        found = self._documents.get((kind, name))
        return None if found is None else found.entry

    def entries(self, kinds: Iterable[str]) -> Iterator[Entry]:
        """All entries of some kinds, by name."""
        wanted = set(kinds)
        for kind, name in sorted(self._documents):
            if kind in wanted:
                yield self._documents[kind, name].entry

    def search(self, query: str, kinds: Iterable[str], limit: int) -> list[Match]:
        """The best finds, best first."""
        asked, wanted = words(query), set(kinds)
        documents = [one for (kind, _), one in self._documents.items() if kind in wanted]
        if not asked:
            return []
        scores = {id(one): 0.0 for one in documents}
        places: dict[int, list[str]] = {id(one): [] for one in documents}
        for word in asked:
            documents = [
                one for one, score, where in _finds(documents, word)
                if _add(one, score, where, scores, places)
            ]  # fmt: skip
        whole = " ".join(asked)
        found = []
        for one in documents:
            score = scores[id(one)]
            if one.fields[0].joined == whole:
                score += _WHOLE * _WEIGHTS["name"]
            elif any(each.joined == whole for each in one.fields if each.kind == "column"):
                score += _WHOLE * _WEIGHTS["column"]
            found.append(Match(one.entry, round(score, 3), tuple(dict.fromkeys(places[id(one)]))))
        found.sort(key=lambda m: (-m.score, KINDS.index(m.entry.kind), m.entry.name))
        return found[:limit]


def _add(
    one: _Document, score: float, where: str, scores: dict[int, float], places: dict[int, list[str]]
) -> bool:
    scores[id(one)] += score
    places[id(one)].append(where)
    return True


def _finds(documents: list[_Document], word: str) -> list[tuple[_Document, float, str]]:
    """The entries that hold a word; where none does, those that hold one with a typing error."""

    def fits(field: _Field) -> float:
        if word in field.words:
            return _EXACT
        if any(one.startswith(word) for one in field.words):
            return _BEGIN
        return _INSIDE if any(word in one for one in field.words) else 0.0

    # Scanning the whole text first spares most entries the look at each of their words.
    found = [(one, *one.best(fits)) for one in documents if word in one.text]
    found = [find for find in found if find[1] > 0]
    if found or len(word) < _TYPO_LETTERS:
        return found
    near = {
        other
        for other in {other for one in documents for other in _WORD.findall(one.text)}
        if is_near(word, other)
    }
    alike = [one for one in documents if any(other in one.text for other in near)]
    found = [
        (one, *one.best(lambda field: _TYPO if near.intersection(field.words) else 0.0))
        for one in alike
    ]
    return [find for find in found if find[1] > 0]


def is_near(one: str, other: str) -> bool:
    """Whether two words differ by one letter: another, missing, doubled, or two that changed places."""
    if one == other:
        return True
    if len(one) > len(other):
        one, other = other, one
    if len(other) - len(one) > 1:
        return False
    start = 0
    while start < len(one) and one[start] == other[start]:
        start += 1
    rest, others = one[start:], other[start:]
    if len(one) < len(other):
        return rest == others[1:]
    swapped = others[1:2] + others[:1] + others[2:]
    return rest[1:] == others[1:] or rest == swapped
