"""The program that is read from an answer, as the official LiveCodeBench checker reads it."""

from __future__ import annotations

import pytest

from led_sglang.evaluation.grading.fences import fenced_code

CASES = {
    "tagged": ("```python\nprint(1)\n```", "print(1)"),
    "tagged in capitals": ("```PYTHON\nprint(1)\n```", "print(1)"),
    "another spelling of the tag": ("```python3\nprint(1)\n```", "print(1)"),
    "no tag": ("```\nprint(1)\n```", "print(1)"),
    "a space before the tag": ("``` python\nprint(1)\n```", "print(1)"),
    "a title after the tag": ('```python title="a.py"\nprint(1)\n```', "print(1)"),
    "attributes of pandoc": ("```{.python .numberLines}\nprint(1)\n```", "print(1)"),
    "a comment after the tag": ("```python # solution.py\nprint(1)\n```", "print(1)"),
    "a tag of another language": ("```cpp\nint x;\n```", "int x;"),
    "carriage returns": ("```python\r\na = 1\r\nprint(a)\r\n```\r\n", "a = 1\r\nprint(a)\r"),
    "four backquotes": ("````python\nprint(1)\n````", "print(1)"),
    "indented in a list": ("1. So:\n   ```python\n   print(1)\n   ```", "   print(1)"),
    "in a quotation": ("> ```python\n> print(1)\n> ```", "> print(1)"),
    "prose on the closing line": ("```python\nprint(1)\n``` That is all.", "print(1)"),
    "prose on the opening line": ("Here: ```python\nprint(1)\n```", "print(1)"),
    "empty lines in it": ("```python\n\nprint(1)\n\n\n```", "\nprint(1)\n\n"),
    "other line separators in it": (
        "```python\ns = '\u2028\x0c'\x0bprint(s)\n```",
        "s = '\u2028\x0c'\x0bprint(s)",
    ),
    "the last of two": ("```python\nprint(1)\n```\nor\n```python\nprint(2)\n```", "print(2)"),
    "an example of output after it": ("```python\nprint(1)\n```\nprints\n```\n1\n```", "1"),
    "untagged after a tagged one": ("```python\nx\n```\nbetter:\n```\ny\n```", "y"),
    # Below, the rule reads no program or a broken one. So does the checker.
    "a fence in a string": ("```python\ns = '```'\nprint(s)\n```", "print(s)"),
    "a fence in a comment at the end": ("```python\nprint(1)\n# end ```\n```", ""),
    "a fence in the last line's string": ("```python\nprint('```')\n```", ""),
    "last one open": ("```python\nprint(1)\n```\nFaster:\n```python\nprint(2)", "Faster:"),
    "only one, open": ("```python\nprint(1)", ""),
    "on one line": ("```print(1)```", ""),
    "two, each on one line": ("```print(1)```\nor\n```print(2)```", "or"),
    "tildes": ("~~~python\nprint(1)\n~~~", ""),
    "two backquotes": ("``\nprint(1)\n``", ""),
    "no fence": ("print(1)", ""),
    "nothing between": ("```python\n```", ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize(("answer", "code"), CASES.values(), ids=CASES)
def test_program_of_an_answer(answer: str, code: str) -> None:
    assert fenced_code(answer) == code
