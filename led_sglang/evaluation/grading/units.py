"""What is certainly a unit behind a number, and takes no part in a comparison.

Math-Verify takes any trailing c, d, g, h, l, m, o, s or t for one, so `7-3t` is read as 4.
"""

from __future__ import annotations

import re

_SHORT_NAMES = """
km cm mm nm kg mg lb lbs oz ft in yd mi hr hrs min mins sec secs ms mph kph kmh rpm ml cl dl gal qt
pt sq cu Hz kHz MHz Pa kPa kJ kW eV mol mL dm ha cc bit bits day days way ways yr yrs m s g h L l J
N W V USD EUR GBP AU ly per of a an the each in on to for
"""
_SHORT = frozenset(_SHORT_NAMES.split())
_LONE = frozenset("msghlLJNWV")  # letters that may be a unit of a plain number
# Words that change what the number before them says.
_TELLING_WORDS = """
and or not is are was than then to mod base more less fewer over under half hundred thousand million
billion trillion am pm ad bc if when where with infinity
"""
_TELLING = frozenset(_TELLING_WORDS.split())
_FUNCTION_NAMES = """
sin cos tan cot sec csc log exp max min gcd lcm det dim ker arg sup inf lim ln arcsin arccos arctan
sinh cosh tanh sqrt frac pi true false yes no none
"""
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_SPACE = r"(?:\s|~|\\[,;:! ]|\\q?quad(?![a-z]))*"
_POWER = r"(?:\s*(?:\^\s*(?:\\text\{-?\d\}|\{-?\d\}|-?\d)))?"
_TEXT_TAIL = re.compile(
    rf"{_SPACE}(?:/|\\cdot(?![a-z])|\\times(?![a-z]))?{_SPACE}"
    rf"[(\[]?\\text\{{([^{{}}]*)\}}{_POWER}[)\]]?{_SPACE}$"
)
_FRACTION_TAIL = re.compile(
    rf"{_SPACE}\\[dt]?frac\s*\{{\s*\\text\{{([^{{}}]*)\}}{_POWER}\s*\}}"
    rf"\s*\{{\s*\\text\{{[^{{}}]*\}}{_POWER}\s*\}}{_SPACE}$"
)
_WORD = r"[A-Za-z]+\.?"
_BARE_TAIL = re.compile(
    rf"(?<![A-Za-z\\_^])({_SPACE})"
    rf"({_WORD}{_POWER}(?:(?:[ -]+|\s*/\s*|\s*\\cdot\s*){_WORD}{_POWER})*)$"
)
_ENDS_A_NUMBER = re.compile(r"(?:[\d)\]}%.]|\\[A-Za-z]+|\\circ)\s*$")
_PLAIN_NUMBER = re.compile(r"[-+]?[\d.,]+\s*$")
# A unit behind each part of a list or point.
_LISTED = re.compile(
    rf"(?<=[\d}}]){_SPACE}\\text\{{([^{{}}]*)\}}{_POWER}"
    r"(?=\s*(?:[,;)\]]|\\right|\band\b|\bor\b|\\text\{\s*(?:and|or)|$))"
)


def strip_units(latex: str, lone_letters: bool = False) -> str:
    """The expression without the unit at its end; what is no unit for certain stays.

    Args:
        latex: a tidied answer; all text is in `\\text{}`.
        lone_letters: take one letter, set off by a space, behind a plain number for a unit.
    """
    listed = [text.strip() for text in _LISTED.findall(latex)]
    if len(listed) > 1 and len({*listed}) == 1 and _is_text_unit(listed[0]):
        latex = _LISTED.sub("", latex)
    while (head := _without_last_unit(latex, lone_letters)) is not None:
        latex = head
    return latex


def _without_last_unit(latex: str, lone_letters: bool) -> str | None:
    for tail in (_TEXT_TAIL, _FRACTION_TAIL):
        match = tail.search(latex)
        if match and _ENDS_A_NUMBER.search(latex[: match.start()]) and _is_text_unit(match[1]):
            return latex[: match.start()]
    if match := _BARE_TAIL.search(latex):
        head = latex[: match.start()]
        if _ENDS_A_NUMBER.search(head) and _are_units(head, match[1], match[2], lone_letters):
            return head
    return None


def _is_text_unit(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.replace(".", "").casefold())
    return bool(words) and not re.search(r"[\d=<>:?]", text) and _TELLING.isdisjoint(words)


def _are_units(head: str, space: str, phrase: str, lone_letters: bool) -> bool:
    words = [word for word in re.findall(r"[A-Za-z]+", phrase) if word != "cdot"]
    if not _TELLING.isdisjoint(word.casefold() for word in words):
        return False
    if len(words) == 1 and len(words[0]) == 1:
        is_unit = lone_letters and space != "" and words[0] in _LONE
        return is_unit and _PLAIN_NUMBER.fullmatch(head) is not None
    return all(_is_unit_word(word, bool(space)) for word in words)


def _is_unit_word(word: str, set_off: bool) -> bool:
    if word in _SHORT or word.casefold() in _SHORT - _LONE:
        return True
    longest_product = 2 if set_off else 3  # `3abc` is a product, `3 apples` are apples
    return (
        len(word) > longest_product
        and word.casefold() not in FUNCTIONS
        and bool(re.search("[aeiouy]", word.casefold()))
    )
