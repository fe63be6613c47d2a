"""SentencePiece's normalization rules (`precompiled_charsmap`), as equivalent normalizers.

The rules map strings to strings, the longest first. The backend's own reader of them (`Precompiled`) works on whole
graphemes: it loses accents after a replaced character, and some texts make it panic. SentencePiece's published rules
are Unicode's NFKC and a few more, so they are expressed as NFKC with two kinds of exceptions: characters that the rules
map differently, and adjacent characters that NFKC would compose or reorder and the rules do not.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable
from functools import cache, lru_cache
from itertools import pairwise

from tokenizers import Regex
from tokenizers.normalizers import NFD, NFKC, Normalizer, Replace
from tokenizers.pre_tokenizers import Split

from luthier.errors import LuthierError

NONCHARACTERS = "".join(map(chr, range(0xFDD0, 0xFDF0)))  # kept by Unicode for such uses: no text should hold any
MOST_EXCEPTIONS = 500  # each is a pass over the text
MOST_RULES, LONGEST_RULE = 1_000_000, 64  # bytes; a hostile trie may go round in circles
HANGUL, HANGUL_END = r"[\x{AC00}-\x{D7A3}]", r"[\x{11A8}-\x{11C2}]"
MARK = r"[\p{M}\x{FF9E}\x{FF9F}]"  # with the half-width Japanese voicing marks


@cache
def characters() -> str:
    """All characters except NUL."""
    return "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))


@lru_cache(maxsize=4)
def normalizing(charsmap: bytes) -> tuple[Normalizer, ...]:
    """Normalizers equivalent to the rules. Raises LuthierError for rules that differ too much from NFKC."""
    rules = read_rules(charsmap)
    nfkc = _each(NFKC())
    otherwise: dict[str, set[str]] = defaultdict(set)
    for character, normal in zip(characters(), nfkc, strict=True):
        new = rules.get(character, character)
        if new != normal:
            otherwise[new].add(character)
    erased = sorted(otherwise.pop("", ()))
    kept = sorted(new for new, old in otherwise.items() if new in old)
    # what the rules erase is gone in the end, so these characters are free to stand for something on the way
    between, *free = [*erased, *NONCHARACTERS]
    if len(otherwise) > MOST_EXCEPTIONS or len(kept) > len(free):
        raise LuthierError(
            "the SentencePiece model's normalization rules are far from NFKC and have no form in tokenizer.json: "
            "train it with --normalization_rule_name=identity or nmt_nfkc"
        )
    stands = dict(zip(kept, free, strict=False))
    return (
        *([Replace(Regex(_class(erased)), between)] if erased else []),
        Replace(Regex(_apart(rules, nfkc)), between),
        *(Replace(character, stand) for character, stand in stands.items()),
        *(Replace(Regex(_class(old - {new})), new) for new, old in otherwise.items() if old != {new}),
        NFKC(),
        Replace(between, ""),
        *(Replace(stand, character) for character, stand in stands.items()),
    )


def read_rules(charsmap: bytes) -> dict[str, str]:
    """The rules in a charsmap: the size of a trie (a double array, as darts-clone writes it), the trie, the results."""
    try:
        (size,) = struct.unpack_from("<I", charsmap)
        units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
        return _walk(units, charsmap[4 + size :])
    except (struct.error, IndexError, ValueError) as error:
        raise LuthierError(f"the SentencePiece model's normalization rules are broken: {error}") from None


def _walk(units: tuple[int, ...], results: bytes) -> dict[str, str]:
    """Follow the trie. A unit is a node's label in 8 bits, whether a rule ends there, and how far its children are."""
    children: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for place, unit in enumerate(units):
        label = unit & 0x800000FF
        if 0 < label < 256:
            children[place ^ label].append((label, place))
    rules: dict[str, str] = {}
    todo = [(_offset(units[0]), b"")]
    while todo:
        base, key = todo.pop()
        for label, place in children[base]:
            below, longer = place ^ _offset(units[place]), key + bytes([label])
            if units[place] & 0x100:
                at = units[below] & 0x7FFFFFFF
                rules[longer.decode()] = results[at : results.index(b"\0", at)].decode()
            if len(longer) > LONGEST_RULE or len(rules) > MOST_RULES:
                raise ValueError("they have no end")
            todo.append((below, longer))
    return rules


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _each(normalizer: Normalizer) -> list[str]:
    """The normalized form of each character alone."""
    whole: str = normalizer.normalize_str("\n".join(characters().replace("\n", "")))  # no character composes with \n
    parts = whole.split("\n")
    parts.insert(characters().index("\n"), "\n")
    return parts


def _apart(rules: dict[str, str], nfkc: list[str]) -> str:
    """A pattern for the places before a mark where the rules never join it to what stands before, and NFKC might."""
    marks = {mark for mark, _ in Split(Regex(MARK), "removed", invert=True).pre_tokenize_str(characters())}
    joined: dict[str, set[str]] = defaultdict(set)  # the marks that stand after a character in a rule
    for rule in rules:
        for left, right in pairwise(rule):
            if right in marks:
                joined[left].add(right)
    forms = zip(characters(), nfkc, _each(NFD()), strict=True)
    changing = {old for old, composed, parted in forms if old != composed or old != parted or old in rules}
    hangul = {chr(code) for code in range(0xAC00, 0xD7A4)}
    groups: dict[frozenset[str], set[str]] = defaultdict(set)
    for left in (changing | marks) - hangul:
        groups[frozenset(joined.get(left, ()))].add(left)
    apart = [f"(?<={_class(left)})" + (f"(?!{_class(joins)})" if joins else "") for joins, left in groups.items()]
    # not at the text's beginning: the backend panics when NFKC follows something put in there
    alone = (changing & marks).difference(*joined.values())
    return f"(?={MARK})(?:{'|'.join(sorted(apart))}|(?<=[\\s\\S])(?={_class(alone)}))|(?<={HANGUL})(?={HANGUL_END})"


def _class(characters: Iterable[str]) -> str:
    """A character class of these characters."""
    ranges: list[tuple[int, int]] = []
    for code in sorted(map(ord, characters)):
        first = ranges.pop()[0] if ranges and ranges[-1][1] == code - 1 else code
        ranges.append((first, code))
    return "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in ranges) + "]"
