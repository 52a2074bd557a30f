"""The paper's prompts: one user turn, no system prompt."""

from __future__ import annotations

from led_sglang.evaluation.items import LETTERS, Item

MATH = "Please reason step by step, and put your final answer within \\boxed{}.\n\n{problem}"

CHOICE = (
    "Please solve the following multiple-choice question. Please show your choice in the answer "
    'field with only the choice letter, e.g.,"answer": "C".\n\n{problem}'
)

CODE = (
    "You will be given a question (problem specification) and will generate a correct Python "
    "program that matches the specification and passes all tests.\n\nQuestion: {problem}"
)

_STARTER_CODE = (
    "You will use the following starter code to write the solution to the problem and enclose "
    "your code within delimiters."
)
_STANDARD_INPUT = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)

# What a user's own task asks is its own affair: the problem alone, unless its file has a prompt.
PLAIN = "{problem}"

TEMPLATES = {"math": MATH, "choice": CHOICE, "code": CODE, "text": PLAIN, "python": PLAIN}


def render(template: str, kind: str, item: Item) -> str:
    """The user turn of an item; `{problem}` of the template is replaced, other braces stay."""
    problem = item.problem
    if item.options:
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, item.options, strict=False)]
        problem = "\n".join([problem, *lines])
    text = template.replace("{problem}", problem)
    if kind != "code":
        return text
    instruction = _STARTER_CODE if item.starter_code else _STANDARD_INPUT
    return f"{text}\n\n{instruction}\n```python\n{item.starter_code or '# YOUR CODE HERE'}\n```"
