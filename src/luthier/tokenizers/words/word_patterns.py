r"""Pre-tokenization with Python's `re`: the same words as the backend's pre-tokenizer, faster.

A pre-tokenizer is converted to patterns that split a text one after another. Published ones use few regular expression
elements, which mean the same in both engines, except character classes (\p{L}, \s): these depend on the engine's
Unicode version, and are expanded to the backend engine's ranges. Patterns with other elements are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from tokenizers import Regex
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import Digits, Split

from luthier.tokenizers.core.steps import steps

Ranges = list[tuple[int, int]]  # the first and the last code of each run of characters

ASCII, BMP, ALL = 0x7F, 0xFFFF, 0x10FFFF
# where Unicode has characters; what lies between has none, or is for private use
PLANES = ((0, 0xD7FF), (0xE000, BMP), (BMP + 1, 0x3FFFF), (0xE0000, 0xE0FFF))
RARE = 2**19  # characters
BEYOND = re.compile("[\U00040000-\U000dffff\U000e1000-\U0010ffff]")
# GPT-2's, as ByteLevel has it. The kinds of words stand in the order that is fastest: most are letters after a space,
# and no two kinds can begin at the same place
BYTE_LEVEL = r" \p{L}++|\p{L}++|'(?:[stmd]|re|ve|ll)| ?+(?:[^\s\p{L}\p{N}]++|\p{N}++)|\s+(?!\S)|\s+"
# the same between digits that stand alone: spaces before a digit are the last of their piece
APART = r" \p{L}++|\p{L}++|'(?:[stmd]|re|ve|ll)|\p{N}| ?+[^\s\p{L}\p{N}]++|\s+(?![^\s\p{N}])|\s+"
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"  # of tiktoken's patterns
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"  # of Llama 4's
ANY_CASE = "(?:'(?:[sSſtTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))"
DIGITS = "<digits>"  # the class of the pre-tokenizer of that name
# how published patterns begin and end, and the same for the same words, found sooner
ANY, BREAK, BLANK = r"[^\r\n\p{L}\p{N}]", r"[\r\n]++", r"[^\S\r\n]"
PLAIN = r" ?+[A-Z]?+[a-z]++(?![\p{Ll}\p{Lm}\p{Lo}\p{M}'])"
BEGINNINGS = {
    rf"{ENDINGS}|{ANY}?\p{{L}}+|": rf" \p{{L}}++|\p{{L}}++|{ENDINGS}|{ANY}\p{{L}}++|",  # Llama 3, Qwen 2
    **{  # Llama 4, and Mistral's Tekken, which has no endings
        f"{mixed}|": rf"{PLAIN}|(?={ANY}?[\p{{L}}\p{{M}}])(?:{mixed})|"
        for ending in (f"{ENDINGS}?", "")
        for mixed in [f"{ANY}?{UPPER}*{LOWER}+{ending}|{ANY}?{UPPER}+{LOWER}*{ending}"]
    },
}
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
LINES = rf"|{BREAK}(?:{BLANK}*+{BREAK})*+|{BLANK}++{BREAK}(?:{BLANK}*+{BREAK})*+|\s+(?!\S)|\s+"
KIND = rf"\\[pP]\{{[A-Z][a-z]?\}}|\\[sS]|{DIGITS}"
EACH_DIGIT = f"{DIGITS}|[^{DIGITS}]+"
ONE = r"\\x\{[0-9A-Fa-f]{1,6}\}|\\[rnt]|\\[^\w\s]"  # a character, written with a backslash
MEMBER = re.compile(rf"(?P<kind>{KIND})|(?P<first>{ONE}|[^\\])(?:-(?P<last>{ONE}|[^\\]))?", re.DOTALL)
SIGN = re.compile(
    rf"(?P<endings>{re.escape(ENDINGS)})|(?P<kind>{KIND})|(?P<one>{ONE})"
    rf"|\[(?P<negated>\^?)(?P<members>(?:{KIND}|{ONE}|[^\\\[\]&])+)\]"
    r"|(?P<same>\(\?(?:[:!=]|<[!=])|[|)]|[?*+][?+]?|\{\d+(?:,\d*)?\}(?![?*+])|[^\\\[\](){}.^$?*+|])",
    re.DOTALL,
)
ESCAPED = {"r": "\r", "n": "\n", "t": "\t"}


class UnsupportedPattern(Exception):  # noqa: N818 - never seen outside: it turns into None
    """A pattern with an unsupported element."""


class Words:
    """Splits texts by patterns, each applied to the pieces of the one before."""

    def __init__(self, patterns: list[str]) -> None:
        self._patterns = patterns
        self._astral = 0  # characters of the texts that had some beyond the Basic Multilingual Plane
        self._compiled: dict[int, list[re.Pattern[str]]] = {}

    def of(self, text: str) -> list[str] | None:
        """Split a text into words; None if the patterns do not support one of its characters or positions."""
        limit = ASCII if text.isascii() else BMP if len(text.encode("utf-16-le", "replace")) == 2 * len(text) else ALL
        if limit == ALL and (self._is_rare(text) or BEYOND.search(text)):
            return None
        if limit not in self._compiled:
            self._compiled[limit] = self._for(limit)
        first, *others = self._compiled[limit]
        words = first.findall(text)
        for pattern in others:
            words = [word for piece in words for word in pattern.findall(piece)]
        known = self._patterns[0] in (BYTE_LEVEL, EACH_DIGIT) and self._patterns[-1] == BYTE_LEVEL
        return words if known or len("".join(words)) == len(text) else None  # these two leave nothing out

    def _is_rare(self, text: str) -> bool:
        """Whether characters beyond the Basic Multilingual Plane are too rare for classes of 200,000 characters."""
        self._astral += len(text)
        return self._astral < RARE

    def _for(self, limit: int) -> list[re.Pattern[str]]:
        patterns = self._patterns
        if patterns == [EACH_DIGIT, BYTE_LEVEL] and _kind(DIGITS, limit) == _kind(r"\p{N}", limit):
            patterns = [APART]
        return [re.compile(translated(pattern, limit)) for pattern in patterns]


def words_of(backend: Backend) -> Words | None:
    """The words of a backend's pre-tokenizer; None if it is not supported."""
    patterns = []
    for step in steps(backend.pre_tokenizer):
        match step:
            case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False} if (
                DIGITS not in pattern
            ):
                patterns.append(pattern)
            case {"type": "Metaspace", "replacement": "▁", "split": False} if not patterns:
                continue  # parts nothing: it is among the normalizers in word_ids.py
            case {"type": "Digits", "individual_digits": bool(each)}:
                patterns.append(EACH_DIGIT if each else f"{DIGITS}+|[^{DIGITS}]+")
            case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(parts)}:
                patterns += [BYTE_LEVEL] if parts else []
            case _:
                return None
    patterns = [sooner(pattern) for pattern in patterns]
    try:
        for pattern in patterns:
            re.compile(translated(pattern, ASCII))
    except (UnsupportedPattern, re.error):
        return None
    return Words(patterns) if patterns else None


def sooner(pattern: str) -> str:
    """An equivalent faster pattern, if one is known."""
    for slow, fast in BEGINNINGS.items():
        if pattern.startswith(slow):
            pattern = fast + pattern.removeprefix(slow)
    return pattern.removesuffix(SPACES) + LINES if pattern.endswith(SPACES) else pattern


def translated(pattern: str, limit: int) -> str:
    """Translate a pattern to Python's `re`, for texts with code points up to `limit`. Raises UnsupportedPattern."""
    return "".join(_signs(pattern, limit))


def _signs(pattern: str, limit: int) -> Iterator[str]:
    place = 0
    while place < len(pattern):
        sign = SIGN.match(pattern, place)
        if sign is None:
            raise UnsupportedPattern
        place = sign.end()
        match sign.lastgroup, sign[0]:
            case "endings", _:
                yield ANY_CASE
            case "kind", kind:
                yield _class(_kind(kind, limit), limit, negated=False)
            case "one", text:
                yield re.escape(_character(text))
            case "members", _:
                ranges = [each for member in MEMBER.finditer(sign["members"]) for each in _member(member, limit)]
                yield _class(ranges, limit, negated=bool(sign["negated"]))
            case _, text:
                yield text


def _member(member: re.Match[str], limit: int) -> Ranges:
    if member["kind"]:
        return _kind(member["kind"], limit)
    return [(ord(_character(member["first"])), ord(_character(member["last"] or member["first"])))]


def _character(text: str) -> str:
    """The character of an escape sequence."""
    if text.startswith(r"\x"):
        return chr(int(text[3:-1], 16))
    return ESCAPED.get(text[1:], text[1:]) if text.startswith("\\") else text


def _class(ranges: Ranges, limit: int, *, negated: bool) -> str:
    """A character class of the ranges, or its negation."""
    no = "^" * negated
    low, high = _written(ranges, 0, min(limit, BMP)), _written(ranges, BMP + 1, limit)
    if not high:
        return f"[{no}{low}]" if low else r"[\s\S]" if negated else "(?!)"
    # Python finds a character of the first plane at once, and one beyond by going through the ranges: not in vain
    beyond = f"[\\U{BMP + 1:08x}-\\U{ALL:08x}]"
    first = f"[^{low}{beyond[1:-1]}]|" if negated else f"[{low}]|" if low else ""
    return f"(?:{first}(?={beyond})[{no}{high}])"


def _written(ranges: Ranges, first: int, last: int) -> str:
    return "".join(f"\\U{max(a, first):08x}-\\U{min(b, last):08x}" for a, b in ranges if a <= last and b >= first)


def _kind(kind: str, limit: int) -> Ranges:
    """The code point ranges of a character class, up to a limit."""
    small = kind[:1] + kind[1].lower() + kind[2:]
    ranges = [run for first, last in PLANES if first <= limit for run in _runs(small, first, min(last, limit))]
    if small == kind:
        return ranges
    ends = [-1, *(end for run in ranges for end in run), limit + 1]
    return [(a + 1, b - 1) for a, b in zip(ends[::2], ends[1::2], strict=True) if a + 1 < b]


@cache
def _runs(kind: str, first: int, last: int) -> Ranges:
    """The runs of a class's characters between two code points, by the backend's regular expression engine."""
    text = "".join(map(chr, range(first, last + 1)))
    if kind == DIGITS:  # the backend's own idea of them, not its engine's
        found = Digits(individual_digits=False).pre_tokenize_str(f"a{text}")[1::2]
        return [(first + a - 1, first + b - 2) for _, (a, b) in found]
    found = Split(Regex(f"{kind}+"), "removed", invert=True).pre_tokenize_str(text)
    return [(first + a, first + b - 1) for _, (a, b) in found]
