"""Rewrites what models write around numbers and Math-Verify misreads, and nothing else.

Each rule takes away dress (bold, thin spaces, a full stop in the box), never a digit, a letter of
an expression or an operator.
"""

from __future__ import annotations

import re

# Spaces and commas between groups of three digits: 70\,000, 70~000, 70{,}000, 70 000.
_GROUP = r"(?:\\[,:; ]|\\thinspace\s*|~|\{[,\s]\}|\\text\{[,\s]\}| )"
_GROUPED = re.compile(rf"(?<![\w.,])\d{{1,3}}(?:{_GROUP}\d{{3}})+(?![\w])")

_RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        # Markdown around a number. A power in Python, 2**3, has no space on its outer side.
        (r"(?<![\w*])\*\*(?=[^\s*])([^\n]+?)(?<=[^\s*])\*\*(?![\w*])", r"\1"),
        (r"(?<![\w*\\])\*(?=[^\s*])([^*\n]+?)(?<=[^\s*])\*(?![\w*])", r"\1"),
        (r"(?<![\w_\\}])__(?=[^\s_{])([^_\n]+?)(?<=[^\s_])__(?![\w_])", r"\1"),
        (r"(?<!`)`([^`\n]+)`(?!`)", r"\1"),
        (r"</?answer>", " "),
        # Currencies. An escaped dollar is never a delimiter of mathematics.
        (r"\\\$|[£€¥](?=\s?\d)|(?<=\d)\s?[£€¥]", ""),
        # Words in the box: a label before the number, or the number inside the text.
        (r"\\text\{[^{}\d=]*:\s*\}", ""),
        (r"\\(?:text|textbf|mathrm|mathbf)\{\s*(-?\d[\d,]*(?:\.\d+)?)\s*\}", r"\1"),
        (r"\\(?:text|textbf)\{\s*(-?\d[\d,]*(?:\.\d+)?)(\s[^{}\\]*)\}", r"\1\\text{\2}"),
        (r"\\varnothing\b", r"\\emptyset"),
        # 5. in a box; \right. is a delimiter
        (r"(?<!\\left)(?<!\\right)(?<=[\w)\]}])[.,;]\s*(?=\})", ""),
    )
)


def tidy(text: str) -> str:
    """The text as Math-Verify reads it best.

    Args:
        text: an answer of a model.
    """
    text = _GROUPED.sub(lambda match: re.sub(rf"{_GROUP}|,", "", match[0]), text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text.replace("~", " ")
