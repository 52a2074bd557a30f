"""The letter that an answer to a multiple-choice question settles on."""

from __future__ import annotations

import re
from collections.abc import Iterator

# "A" before a word is an article, unless the word is one that follows an answer.
_LETTER = (
    r"(?:A(?!\s+(?!(?:is|was|would|because|since|as|and|or|for|with|due|gives|has|but|not"
    r"|fits|matches|satisfies|works|agrees|holds|remains|seems|must|can|does|best|only|alone)\b)[a-z])"
    r"|[B-J])(?![A-Za-z])"
)
# A small letter counts where nothing can follow but the end of the answer.
_SMALL = r"[a-j](?=[ \t]*(?:[.,;:!)\]}*\"'$<\n]|\\\)|$))"
_DRESS = r"[\s*$\"'_`]*"
_OPENING = (
    r"[(\[{*]*(?:\\(?:text|textbf|mathrm|mathbf|boxed)\s*\{)*[(\[{*]*(?i:option\s+|choice\s+)?[(*]*"
)
_CHOSEN = rf"{_DRESS}{_OPENING}({_LETTER}|{_SMALL})"
_HEDGES = (
    r"(?i:(?:(?:most|very|quite)?\s*(?:likely|probably|certainly|clearly|definitely|simply|therefore"
    r"|thus|then|hence|indeed|surely|obviously|still|indicated by|given by|labell?ed|to be|letter)"
    r"|option|choice|answer)[\s,:]+)*"
)
_RIGHT = (
    r"(?:(?:the|our|my)\s+)?(?:most\s+|only\s+|final\s+)?"
    r"(?:correct|right|best|accurate|answer|likely|plausible|true"
    r"|(?<=most\s)(?:consistent|suitable|appropriate|reasonable|probable|fitting))\b"
)

# The first that is found counts, each by its last match.
_FIELD = re.compile(rf"(?i:(?<![\"'*])[\"'*]+answer[\"'*]+)\s*[:=][\s\[]*{_CHOSEN}")
_BOX = re.compile(rf"\\boxed\s*\{{{_CHOSEN}")
_TAG = re.compile(rf"(?i:<answer>){_CHOSEN}")
_BE = r"(?:is|was|(?:would|must|should|has to|will) be)"
_CHOOSE = r"(?:choo?se|pick(?:ed)?|select(?:ed)?|go with|opt for|settle on|conclude|favou?r|answer)"
_STATED = re.compile(
    r"(?:(?i:\banswer[*_]*\s*[:=])"
    r"|(?i:\b(?:correct|final|best|right|selected|chosen|my)"
    r"\s+(?:choice|option|selection)[*_]*\s*[:=])"
    rf"|(?i:\b(?:answer|choice|option|letter|selection)[*_]*\s*{_BE})[\s:]"
    rf"|(?i:\b(?:I|we|I['’]?ll|I['’]?d|we['’]?ll)\s+(?:(?!not\b|never\b)\w+\s+){{0,2}}?{_CHOOSE})"
    r"|(?:^|[.:\n])[ *]*(?i:choose|select|pick)\s)"
    rf"(?:[\s:*]*){_HEDGES}{_CHOSEN}"
)
_CALLED_RIGHT = re.compile(
    rf"(?:(?i:option|choice|answer)\s+)?(?<![(*])[(*]*(?<![\w'’\\])({_LETTER})[)*]*"
    rf"\s+(?i:is|must be|would be|seems)\s+{_HEDGES}(?i:{_RIGHT})"
)
# A small letter that is the whole answer.
_WHOLE = re.compile(r"[\W_]*(?:(?i:option|choice)\b[\W_]*)?([a-j])[\W_]*", re.ASCII)
# A letter that has a line to itself, and an option's letter that opens the answer.
_LINE = re.compile(r"^[^\w\n]*(?:(?i:option|choice)\b[^\w\n]*)?([A-HJ])[^\w\n]*$", re.MULTILINE)
_OPTION = re.compile(r"^[^\w\n]*([A-J])[).](?![A-Za-z])", re.MULTILINE)
# The last letter that stands alone; "I" is a pronoun.
_ALONE = re.compile(rf"(?<![\w'’\\])\(?((?!I){_LETTER})(?![\w'’]|\s*[=+^_])")
# A letter that is spoken of, not chosen: not A; A is too low; options A, B and D fail.
_NAMES = rf"{_DRESS}(?i:options?\s+|choices?\s+|answers?\s+)?\(?{_LETTER}\)?"
_SPOKEN_OF = re.compile(
    rf"(?i:\b(?:not(?:\s+{_CHOOSE})?|nor|neither|rather than|instead of|unlike|than|over"
    r"|eliminates?|eliminated"
    r"|eliminating|rules?\s+out|ruled\s+out|ruling\s+out|excludes?|rejects?|discards?|incorrect:|wrong:))"
    rf"{_NAMES}(?:{_DRESS}(?:,|(?i:,?\s*(?:and|or|nor))){_NAMES})*"
    rf"|(?<![\w'’\\])(?:(?i:options?|choices?|answers?)\s+)?\(?{_LETTER}\)?(?:{_DRESS}(?:,|(?i:,?\s*(?:and|or))){_NAMES})*{_DRESS}"
    r"(?i:(?:is|are|was|were|has|have|had|does|do|doesn['’]t|don['’]t|isn['’]t|aren['’]t|cannot"
    r"|can['’]t|can|could|would|will|fails?|contradicts?|violates?|gives?|requires?|describes?"
    r"|refers?|ignores?|predicts?|assumes?|corresponds?|omits?|misses|overlooks?|neglects?"
    r"|seems?|looks?|also|only)\b"
    rf"(?!\s+{_RIGHT}))"
)


def robust_letter(answer: str) -> str | None:
    """The letter that an answer settles on, or None.

    The last field `"answer"`, else the last box, `<answer>`, statement ("the answer is most likely
    B", "I choose B", "B is correct"), else the last letter that stands alone and is not only spoken
    of ("A is too low").
    """
    for letters in _readings(answer):
        if letters:
            return letters[-1].upper()
    return None


def _readings(answer: str) -> Iterator[list[str]]:
    for pattern in (_FIELD, _BOX, _TAG, _STATED, _CALLED_RIGHT):
        yield pattern.findall(answer)
    whole = _WHOLE.fullmatch(answer)
    yield [whole[1]] if whole else []
    yield _LINE.findall(answer)
    options = _OPTION.findall(answer)
    yield options if len(options) == 1 and _OPTION.match(answer) else []
    yield _ALONE.findall(_SPOKEN_OF.sub(" ", answer))
    yield _ALONE.findall(answer)
