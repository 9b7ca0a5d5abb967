"""Search over entries, inside of this process.

Every word of a query must be found in an entry. A word counts by where it is found (name, column,
tag, owner, description) and how: as a word, as a word's beginning, inside of one, or with one typing
error, which is looked for only when nothing else is found. A name or a column that is the query as a
whole counts most.

The texts of 10,000 datasets of 20 columns repeat each other: each text is taken apart once, and a
query looks at each word that there is once (`benchmarks/processing.py`).
"""

from __future__ import annotations

import heapq
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


@dataclass(eq=False, slots=True)
class _Document:
    """An entry in the index; a dead one has been replaced, and waits for the next clearing."""

    entry: Entry
    alive: bool = True


_Place = tuple[_Document, str, str]
"""Where a text stands: the document, what it is there (a key of `_WEIGHTS`), and to the reader."""

_Found = dict[_Document, tuple[float, str]]
"""How good the best place of a word is in a document, and which it is."""


class Index:
    """Entries to search in. Safe for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[tuple[str, str], _Document] = {}
        self._clear()

    def _clear(self) -> None:
        self._dead = 0
        self._places: dict[str, list[_Place]] = {}  # by the text
        self._texts: dict[str, list[str]] = {}  # by a word that they have
        self._wholes: dict[str, list[str]] = {}  # by all of their words
        for document in self._documents.values():
            self._add(document)

    def replace(self, kind: str, entries: Iterable[Entry]) -> None:
        """Makes these the only entries of a kind; those that did not change cost nothing."""
        with self._lock:
            gone = {key for key in self._documents if key[0] == kind}
            for entry in entries:
                key = (kind, entry.name)
                gone.discard(key)
                known = self._documents.get(key)
                if known is not None and known.entry == entry:
                    continue
                self._remove(key)
                self._documents[key] = document = _Document(entry)
                self._add(document)
            for key in gone:
                self._remove(key)
            if self._dead > len(self._documents):
                self._clear()

    def _remove(self, key: tuple[str, str]) -> None:
        known = self._documents.pop(key, None)
        if known is not None:
            known.alive = False
            self._dead += 1

    def _add(self, document: _Document) -> None:
        for text, kind, place in _fields(document.entry):
            places = self._places.get(text)
            if places is None:
                places = self._places[text] = []
                own = words(text)
                self._wholes.setdefault(" ".join(own), []).append(text)
                for word in dict.fromkeys(own):
                    self._texts.setdefault(word, []).append(text)
            places.append((document, kind, place))

    def get(self, kind: str, name: str) -> Entry | None:
        """One entry."""
        with self._lock:
            found = self._documents.get((kind, name))
        return None if found is None else found.entry

    def entries(self, kinds: Iterable[str]) -> Iterator[Entry]:
        """All entries of some kinds, by kind and name."""
        wanted = set(kinds)
        with self._lock:
            known = sorted(self._documents.items(), key=lambda item: item[0])
        return (one.entry for (kind, _), one in known if kind in wanted)

    def search(self, query: str, kinds: Iterable[str], limit: int) -> list[Match]:
        """The best finds, best first."""
        asked, wanted = words(query), frozenset(kinds)
        if not asked:
            return []
        with self._lock:
            finds = [self._find(word, wanted) for word in dict.fromkeys(asked)]
            whole = self._whole(" ".join(asked))
        first, *others = finds
        scores = {
            one: sum((other[one][0] for other in others), score) + whole.get(one, 0.0)
            for one, (score, _) in first.items()
            if all(one in other for other in others)
        }
        best = heapq.nsmallest(
            limit,
            scores,
            key=lambda one: (-scores[one], KINDS.index(one.entry.kind), one.entry.name),
        )
        return [
            Match(
                one.entry,
                round(scores[one], 3),
                tuple(dict.fromkeys(find[one][1] for find in finds)),
            )
            for one in best
        ]

    def _find(self, word: str, kinds: frozenset[str]) -> _Found:
        """The documents that hold a word, or else those that hold it with a typing error."""
        found: _Found = {}
        # The best first, so that a text counts by its best word.
        for quality, alike in self._alike(word):
            for other in alike:
                self._collect(other, quality, kinds, found)
        if not found and len(word) >= _TYPO_LETTERS:
            for other in self._texts:
                if is_near(word, other):
                    self._collect(other, _TYPO, kinds, found)
        return found

    def _alike(self, word: str) -> Iterator[tuple[float, list[str]]]:
        within = [other for other in self._texts if word in other and word != other]
        yield _EXACT, [word] if word in self._texts else []
        yield _BEGIN, [other for other in within if other.startswith(word)]
        yield _INSIDE, [other for other in within if not other.startswith(word)]

    def _collect(self, word: str, quality: float, kinds: frozenset[str], found: _Found) -> None:
        for text in self._texts[word]:
            for document, kind, place in self._places[text]:
                score = quality * _WEIGHTS[kind]
                known = found.get(document)
                if known is not None and known[0] >= score:
                    continue
                if document.alive and document.entry.kind in kinds:
                    found[document] = (score, place)

    def _whole(self, text: str) -> dict[_Document, float]:
        """The documents whose name, or one of whose columns, is a text as a whole."""
        found: dict[_Document, float] = {}
        for one in self._wholes.get(text, ()):
            for document, kind, _ in self._places[one]:
                if kind in ("name", "column"):
                    score = _WHOLE * _WEIGHTS[kind]
                    found[document] = max(score, found.get(document, 0.0))
        return found


def _fields(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """The texts of an entry: what each is, and what it is to the reader."""
    yield entry.name, "name", "name"
    for column in entry.columns:
        place = f"column {column.name}"
        yield column.name, "column", place
        if column.description:
            yield column.description, "description", place
    for what, text in (("description", entry.description), ("owner", entry.owner)):
        if text:
            yield text, what, what
    for key, value in entry.tags.items():
        yield f"{key} {value}", "tag", f"tag {key}"


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
