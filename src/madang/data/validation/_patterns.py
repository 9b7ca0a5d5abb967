"""Python's regular expressions as those of Rust's regex crate, where the two can mean the same."""

from __future__ import annotations

import re

# str.isalnum or "_"; str.isspace, which knows four separators more than Unicode's White_Space.
_INSIDE = {"w": r"\p{L}\p{N}_", "s": r"\s\x1c-\x1f", "d": r"\d"}
_SAME = frozenset("nrtfvadD0123456789xuU")


class PatternError(ValueError):
    """The pattern means something that the other kind of expression can't say."""


def whole(pattern: str, *, start: bool = False) -> str:
    """A pattern that the whole text must match where Python finds `pattern` somewhere in it.

    Args:
        pattern: Of Python's `re`, without flags.
        start: Whether it is found at the text's start alone (`re.match`).

    Raises:
        PatternError: It can't be said; tells why.
    """
    before = "" if start else "(?s:.*?)"
    body, ends = _translated(pattern)
    after = r"\n?" if ends else "(?s:.*)"
    return f"{before}(?:{body}){after}"


def found(pattern: str) -> str:
    """A pattern for a search, as by Python's `re.search`.

    Raises:
        PatternError: It can't be said; tells why.
    """
    body, ends = _translated(pattern)
    return rf"(?:{body})\n?\z" if ends else body


def _translated(pattern: str) -> tuple[str, bool]:
    """The pattern without a `$` at its end, and whether there was one."""
    ends = pattern.endswith("$") and not re.search(r"(?<!\\)(?:\\\\)*\\\$\Z", pattern)
    if ends and "|" in pattern:
        raise PatternError("its $ belongs to one of several alternatives")
    text = pattern[:-1] if ends else pattern
    result, position, inside = [], 0, False
    while position < len(text):
        char, rest = text[position], text[position + 1 :]
        if char == "\\":
            result.append(_escape(rest[:1], inside=inside))
            position += 2
            continue
        if inside:
            if char == "[" or text.startswith(("&&", "--", "~~"), position):
                raise PatternError("a character class with [, &&, -- or ~~ has another meaning")
            inside = char != "]"
        elif char == "[":
            inside = True
            # Right after [ or [^ a ] is an ordinary character in Python.
            if rest.startswith(("]", "^]")):
                raise PatternError("a character class that begins with ] has another meaning")
        elif char == "(" and rest.startswith("?") and not rest.startswith("?:"):
            raise PatternError("look-around, flags, names and conditions have no exact counterpart")
        elif char == "$":
            raise PatternError("a $ before the end has no exact counterpart")
        elif char in "*+?}" and rest.startswith("+"):
            raise PatternError("a possessive quantifier has no exact counterpart")
        result.append(char)
        position += 1
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise PatternError(f"{pattern!r} is no regular expression: {error}") from error
    return "".join(result), ends


def _escape(char: str, *, inside: bool) -> str:
    if char in ("w", "s"):
        return _INSIDE[char] if inside else f"[{_INSIDE[char]}]"
    if char in ("W", "S") and not inside:
        return f"[^{_INSIDE[char.lower()]}]"
    if char in ("<", ">"):
        return char  # behind a backslash it is a word's boundary there
    if char == "A":
        return r"\A"
    if char == "Z":
        return r"\z"
    if (char.isalnum() and char not in _SAME) or char.isdigit():
        raise PatternError(f"\\{char} has no exact counterpart")
    return f"\\{char}"
