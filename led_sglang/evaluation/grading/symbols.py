"""Mathematics in Unicode as LaTeX."""

from __future__ import annotations

import re

# Characters that look like others; a dash is one of many.
PLAIN = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d", "-"),
        **dict.fromkeys("\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f", " "),
        **dict.fromkeys("\u200b\u2060\ufeff", ""),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
    }
)
DASH = "[\u2010-\u2015]"
_SYMBOLS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": r"\div ", "π": r"\pi ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "°": r"^\circ ", "º": r"^\circ ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "≈": r"\approx ",
    "⁄": "/", "∕": "/", "％": r"\%", "∛": r"\sqrt[3]",
}  # fmt: skip
_RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n", strict=True))
_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_FRACTIONS = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5),
    "⅗": (3, 5), "⅘": (4, 5), "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8),
    "⅞": (7, 8),
}  # fmt: skip


def in_latex(text: str) -> str:
    """The text with LaTeX for the symbols, powers, indices, roots and fractions of Unicode."""
    text = re.sub(DASH, "-", text.translate(PLAIN))
    for symbol, latex in _SYMBOLS.items():
        text = text.replace(symbol, latex)
    for symbol, (above, below) in _FRACTIONS.items():
        text = re.sub(rf"\s?{symbol}", rf"\\frac{{{above}}}{{{below}}}", text)
    for mark, characters in (("^", _RAISED), ("_", _LOWERED)):
        text = _marked(text, mark, characters)
    return re.sub(r"√\s*(?:(\d+|[A-Za-z])|\(([^()]*)\))", r"\\sqrt{\1\2}", text)


def _marked(text: str, mark: str, characters: dict[str, str]) -> str:
    def write(match: re.Match[str]) -> str:
        return f"{mark}{{{''.join(characters[character] for character in match[0])}}}"

    return re.sub(f"[{''.join(characters)}]+", write, text)
