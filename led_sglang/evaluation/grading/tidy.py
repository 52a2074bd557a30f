"""Makes an answer plain: what models write around mathematics and Math-Verify misreads goes.

Gold answers and answers of models go through the same rules. Each rule takes away dress (bold, thin
spaces, currencies, units) or says the same in LaTeX; none takes away a digit, a letter of an
expression or an operator.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from led_sglang.evaluation.grading.symbols import in_latex
from led_sglang.evaluation.grading.units import FUNCTIONS, strip_units

_TEXT = r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf)|[mh]box|operatorname)\s*\{"
# Between groups of three digits: 70\,000, 70~000, 70{,}000, 70 000, 70,\!000, 70'000. No group
# follows a leading 0.
_GROUP = r"(?:\\[,:; !]\s*|\\thinspace\s*|~|\{[,\s]\}|\\text\{[,\s]\}|,\\!\s*|\\!,\\!|'| )"
_GROUPED = re.compile(rf"(?<![\w.,])[1-9]\d{{0,2}}(?:(?:{_GROUP}|,)\d{{3}})+(?!\w|,\d)")
_INDIAN = re.compile(r"(?<![\w.,])[1-9]\d?(?:,\d\d)+,\d{3}(?![\w,])")
_EUROPEAN = re.compile(r"(?<![\w.,])([1-9]\d{0,2}(?:\.\d{3})+),(\d{1,2})(?![\w,.])")
_EUROPEAN_WHOLE = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:\.\d{3}){2,}(?![\w,.])")
MIXED_NUMBER = re.compile(
    r"(?<![\w.,/^\\{}])(-?\d+)(?:\\?[ ~]|\\[,;:!])+(\d+)\s*/\s*(\d+)(?![\w/^.]*\d)"
)
SCIENTIFIC = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)e([+-]?\d+)(?!\w)", re.IGNORECASE)

# {x : 1 < x < 2}
_SET_BUILDER = (
    r"(?:\\left)?\\\{\s*([a-z])(?:\s*\\in\s*\\(?:mathbb\s*\{?\s*)?R\}?)?\s*"
    r"(?::|\||\\mid(?![a-z])|\\vert(?![a-z]))\s*(.*?)\s*(?:\\right)?\\\}"
)

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Delimiters and Markdown around the whole answer
        (r"(\\\\)\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm)\s*\]", r"\1"),
        (r"\\(?:checkmark|blacksquare|square|qed|qquad|quad)(?![a-z])", " "),
        (r"\\[()\[\]](?![a-z])|(?<!\\)\$", " "),
        (r"^\s*(\*{1,3}|__|`)\s*(.*?)\s*\1\s*$", r"\2"),
        (r"\\(?:displaystyle|textstyle|limits|boldsymbol|bm|biggl?|biggr|large|huge)(?![a-z])", ""),
        (r"\\(?:small|normalsize|tt|bf|it|underline|phantom\{[^{}]*\})(?![a-z])", ""),
        (r"\\(?:text)?color\{[a-z]+\}", ""),
        (r"</?(?:answer|b|strong|em|i)>", " "),
        (r"\\(?:begin|end)\{(?:aligned|align\*?|gathered|split)\}", " "),
        # Currencies
        (r"\b(?:US|HK|A|C|NZ|S)?\\\$|\\(?:pounds|euro|yen|textdollar|cent)\b|[£€¥₹₩¢]", ""),
        (r"\b(?:USD|EUR|GBP|Rs\.?)\s*(?=\d)|\\text\{\s*(?:USD|EUR|GBP|Rs\.?)\s*\}(?=\s*\d)", ""),
        # A text without letters is mathematics, a label says nothing.
        (r"^\s*\\text\{\s*\([A-J]\)\s*\}\s*(?=[-\d\\(])", ""),
        (r"^\s*\([A-J]\)(?:\s|\\[,;: ])+(?=[-\d\\])", ""),
        (r"\\text\{\s*(\^\\circ)\s*[CFK]?\s*\}", r"\1 "),
        (r"\\text\{([^{}a-z]*)\}", r"\1"),
        (r"\\text\{[^{}=]*(?::|\bis)\s*\}", ""),
        (r"^\s*=\s*", ""),
        (r"^\s*(?:(?:the |my |final |correct )*answer(?: is)?\s*[:=]?)\s*(?=[-\d\\(\[])", ""),
        (r"^\s*(?:\\approx|\\sim|about |approximately |approx\. )\s*", ""),
        # Other names
        (r"\.{3}|…", r"\\ldots "),
        (r"\\langle(?![a-z])", "("),
        (r"\\rangle(?![a-z])", ")"),
        (r"\{:\}", ":"),
        (r"(\d)\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*(\d)", r"\1:\2"),
        (r"\^\s*\{?\s*(?:\\text\{\s*)?(?:st|nd|rd|th)(?![a-z])[\s}]*", ""),
        (r"\\(?:lor|vee)(?![a-z])", r"\\text{ or }"),
        (r"\\text\{([ie])\}", r"\1"),
        (r"(?<=\d)(?:\s|\\[,;: ])+i(?![a-z])", "i"),
        (r"^\s*(\d+)\s*:\s*(\d+)\s*:\s*(\d+)\s*$", r"(\1, \2, \3)"),
        (r"\\varnothing\b", r"\\emptyset"),
        (r"\\deg(?:rees?)?(?![a-z])", r"^\\circ "),
        (r"\\log_\{?e\}?(?![a-z])", r"\\ln"),
        (rf"^\s*{_SET_BUILDER}\s*$", r"\2"),
        (r"(\^\s*(?:\\circ|\{\s*\\circ\s*\}))\s*[CF]\b", r"\1"),
        (r"\\([lg]e)(?:q|qslant)?(?![a-z])", r"\\\1 "),
        (r"(?<![\\a-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\a-z])pi(?![a-z])", r"\\pi "),
        # Numbers
        (r"\\!\s*", ""),
        (r"(?<!\\)\\(?: |$)", " "),
        (r"(?<![\w.,])0(?:\{,\}|,)(\d{3,})(?![\d,.])", r"0.\1"),
        (r"(?<![\w.,])(\d+)\{,\}(\d+)(?![\d,.{])", r"\1.\2"),
        (r"(?<=\d)\s*[x*]\s*10\s*(?=\^|\*\*)", r"\\times 10"),
        (r"(?<![\d.])10\s*(?:\^|\*\*)\s*(-\d+)", r"10^{\1}"),
        # Products and powers
        (r"\*\*\s*(\w|\{|\()", r"^\1"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\^(\d{2,})", r"^{\1}"),
        (r"\s*\*\s*", r" \\cdot "),
        # 5. and 5,  \right. is a delimiter
        (r"(?<!\\left)(?<!\\right)(?<=[\w)\]}%!])\s*[.,;]+\s*$", ""),
    )
)

_NESTED_TEXT = re.compile(r"\\text\{([^{}]*)\\text\{([^{}]*)\}([^{}]*)\}")
_TEXT_WITH_DIGITS = re.compile(r"\\text\{([^{}]*\d[^{}]*)\}")
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALE = re.compile(
    rf"(?<=\d)(?:\s|~|\\[,; ])*(\\text\{{)?\s*({'|'.join(_SCALES)})\b(?(1)([^{{}}]*)\}}|)",
    re.IGNORECASE,
)
_DOTS = r"\s*\\(?:[lc]?dots|dots[bcio])(?![a-z])"
_REPEATING = re.compile(
    r"(?<![\w.])(\d*)\.(?:(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?"
    rf"|(\d*?)(\d{{2,}}?)\5+{_DOTS}|(\d*?)(\d)\7\7+{_DOTS})"
)
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\{\s*(?:percent|per cent|pct)\s*\}|\bpercent\b)\s*$")
_HALF_DAY = re.compile(
    r"(?<=\d)[\s~\\,]*(?:\\text\{\s*(?i:[ap]\.?\s?m)\b\.?\s*\}|[ap]\.\s?m\b\.?|\s[ap]m\b|[AP]M\b)\.?\s*$"
)
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}(?![A-Za-z}])")


@dataclass(frozen=True)
class Tidied:
    """An answer as Math-Verify reads it best.

    Attributes:
        latex: without units and without the percent sign.
        percent: it ended in one.
        worded: words are left, or it is a time of the day: it is to be compared as text.
        bare: it has no words and no products of letters either: it can stand in a sentence.
    """

    latex: str
    percent: bool
    worded: bool
    bare: bool


def tidy(answer: str, lone_letters: bool = False) -> Tidied:
    """Tidy one answer, a gold or a model's.

    Args:
        answer: LaTeX or plain, without the text around it.
        lone_letters: read the `m` of `6 m` as a unit, and `9 p.m.` as 9.
    """
    latex = one_text_macro(in_latex(answer))
    latex = ungrouped(_TEXT_WITH_DIGITS.sub(r"\1", latex))
    for pattern, replacement in _RULES:
        latex = pattern.sub(replacement, latex)
    latex = SCIENTIFIC.sub(r"\1\\times 10^{\2}", ungrouped(latex))
    latex = MIXED_NUMBER.sub(r"\1\\frac{\2}{\3}", latex)
    latex = _SCALE.sub(_scaled, _REPEATING.sub(_repeated, latex))
    latex = latex.replace("~", " ").strip()
    if lone_letters and (hour := re.fullmatch(rf"(\d+)(?::00)?{_HALF_DAY.pattern}", latex)):
        latex = hour[1]
    latex = strip_units(latex, lone_letters)
    number = _PERCENT.sub("", latex)
    if percent := number != latex:
        number = strip_units(number, lone_letters)
    words = {word.casefold() for word in _WORD.findall(number)} - FUNCTIONS - {"and", "or"}
    in_text = re.search(r"\\text\{(?!\s*(?:and|or)\s*\})[^{}]*[A-Za-z]", number)
    time = re.match(r"\d+:\d\d\b", number) or _HALF_DAY.search(number)
    return Tidied(
        number.strip(),
        percent,
        worded=bool(in_text or time) or any(len(word) > 2 for word in words),
        bare=not in_text and not words,
    )


def both_signs(latex: str) -> str:
    r"""\frac{1 \pm \sqrt{5}}{2}, 3 -> \frac{1 + \sqrt{5}}{2}, \frac{1 - \sqrt{5}}{2}, 3"""
    latex = re.sub(r"^\s*\\\{(.*)\\\}\s*$", r"\1", latex)
    parts = re.split(r",(?![^(\[{]*[)\]}])", latex)
    for index, part in enumerate(parts):
        if len(re.findall(r"\\pm(?![a-z])", part)) == 1:
            plus, minus = (
                re.sub(r"\\pm(?![a-z])", sign, re.sub(r"\\mp(?![a-z])", other, part))
                for sign, other in (("+", "-"), ("-", "+"))
            )
            parts[index] = f"{plus}, {minus}"
    return ",".join(parts)


def one_text_macro(latex: str) -> str:
    r"""\text{ for \mathrm{, \mbox{ and all others."""
    latex = re.sub(rf"{_TEXT}|\{{\\(?:rm|bf|it|sf|tt)\s", r"\\text{", latex)
    return _NESTED_TEXT.sub(r"\\text{\1\2\3}", latex)


def ungrouped(text: str) -> str:
    """The text with its numbers in one piece and a point before their decimals."""
    text = _EUROPEAN.sub(lambda number: f"{number[1].replace('.', '')}.{number[2]}", text)
    text = _EUROPEAN_WHOLE.sub(lambda number: number[0].replace(".", ""), text)
    text = _INDIAN.sub(lambda number: number[0].replace(",", ""), text)
    return _GROUPED.sub(lambda number: re.sub(rf"{_GROUP}|,", "", number[0]), text)


def _scaled(match: re.Match[str]) -> str:
    """5 million -> 5 \\cdot 10^6"""
    unit = f"\\text{{{match[3]}}}" if match[3] and match[3].strip() else ""
    return f" \\cdot 10^{{{_SCALES[match[2].casefold()]}}}{unit}"


def _repeated(match: re.Match[str]) -> str:
    """0.1\\overline{6}, 0.1666... = (16 - 1) / 90"""
    whole, *decimals = match.groups()
    once, again = (decimal for decimal in decimals if decimal is not None)
    above = int(f"{whole}{once}{again}") - int(f"{whole}{once}" or "0")
    below = int("9" * len(again) + "0" * len(once))
    return f"\\frac{{{above}}}{{{below}}}"


def same_words(gold: str, answer: str) -> bool:
    """Do two answers that are words, or words and numbers, say the same?

    Case, punctuation, white space and LaTeX's dress do not count; `(C) 5` says `(C)`.
    """
    expected, words = _words(gold), _words(answer)
    if len(expected) == 1 and re.fullmatch("[a-j]", expected[0]):
        option = re.match(r"\W*([A-J])[).:]", re.sub(_TEXT, "", answer), re.IGNORECASE)
        if option:
            return option[1].casefold() == expected[0]
    if not {"am", "pm"}.intersection(expected):
        words = [word for word in words if word not in ("am", "pm")]
    return bool(expected) and words == expected


def _words(answer: str) -> list[str]:
    text = re.sub(_TEXT, " ", in_latex(answer)).replace("{:}", ":").replace("\\!", "")
    text = re.sub(r"\\[A-Za-z]+|\\.", " ", text).casefold()
    text = re.sub(r"\b([ap])\.?\s?m\b\.?", r" \1m", text)
    text = re.sub(r"\b(\d+):00\b", r"\1", text)
    words = re.findall(r"\d+(?:[:.,/]\d+)*|[^\W\d_]+|(?<!\w)-(?=\d)|^\s*-", text)
    if len(words) > 1 and words[0] in ("a", "an") and len(words[1]) > 1:
        del words[0]
    return [word for word in words if word not in ("and", "the")] or words
