"""Are two parsed answers equal? Math-Verify compares them once their numbers are exact.

Math-Verify rounds floats at six decimals and takes what is below 1e-15 for 0. Here a decimal is the
fraction that it says, and numbers without symbols are compared by their relative difference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
from math_verify import grader, verify

# How far a rounded decimal may be from a number that no decimal can say, such as 1/3 or pi.
_ROUNDING = 1.5e-6
# Closed expressions are evaluated to so many digits, of which so many must agree.
_DIGITS, _AGREEING_DIGITS = 50, 40


def same(gold: Any, value: Any) -> bool:
    """Are two values of `math_verify.parse` equal?

    Args:
        gold: a SymPy object; a string where the gold answer cannot be parsed.
        value: of the model, alike.
    """
    if isinstance(gold, str) or isinstance(value, str):
        sides = [side.replace(" ", "") for side in (gold, value) if isinstance(side, str)]
        return len(sides) == 2 and sides[0] == sides[1]
    gold, value = _sides(gold, value)
    if (pair := _column_and_point(gold, value)) is not None:
        return len(pair[0]) == len(pair[1]) and all(map(same, *pair))
    value = exact(_unrounded(value, list(_endless_numbers(exact(gold)))))
    gold = exact(gold)
    if is_number(gold) and is_number(value):
        return _same_number(gold, value)
    equal = verify(gold, value, allow_set_relation_comp=True, timeout_seconds=None)
    return (
        (bool(equal) and not _differ_somewhere(gold, value))
        or _same_range(gold, value)
        or _same_equation(gold, value)
    )


def joined_ranges(value: Any, *, alternatives: bool) -> Any:
    """`x < 1 or x > 2` as a set of numbers; any other value as it is.

    Args:
        value: both relations in one set, as Math-Verify reads them.
        alternatives: they were joined by "or"; else by "and".
    """
    if not isinstance(value, sympy.FiniteSet):
        return value
    if not all(grader.is_relation(part) and not grader.is_equation(part) for part in value.args):
        return value
    if len(value.free_symbols) != 1:
        return value
    join = sympy.Union if alternatives else sympy.Intersection
    return join(*(part.as_set() for part in value.args))


def is_number(value: Any) -> bool:
    """Is it one number, whatever its form?"""
    return isinstance(value, sympy.Expr) and bool(value.is_number)


def exact(value: Any) -> Any:
    """The value with decimals as fractions, and sums, products and powers of them worked out."""
    if isinstance(value, sympy.MatrixExpr):
        value = value.doit()
    if isinstance(value, sympy.MatrixBase):
        return value.applyfunc(exact)
    if isinstance(value, sympy.Float):
        return sympy.Rational(str(value))
    if not isinstance(value, sympy.Basic) or not value.args:
        return value
    if is_number(value):
        return value.replace(lambda part: part.is_Float, exact).doit()
    before = list(getattr(value, "_unsorted_args", value.args))
    after = [exact(part) for part in before]
    if after == before:
        return value
    if isinstance(value, sympy.Rel):
        return value.func(*after, evaluate=False)
    return value.func(*after)


def _sides(gold: Any, value: Any) -> tuple[Any, Any]:
    """`x = 5` says 5 where the other side is no equation."""
    if grader.is_equation(value) and not grader.is_relation(gold):
        return gold, grader.take_last_relation(value).rhs
    if grader.is_assignment_relation(gold) and not grader.is_equation(value):
        return grader.take_last_relation(gold).rhs, value
    return gold, value


def _column_and_point(gold: Any, value: Any) -> tuple[list[Any], list[Any]] | None:
    """The coordinates of both where one is a column and the other a point."""
    kinds = (sympy.MatrixBase, sympy.Tuple)
    if not (isinstance(gold, kinds) and isinstance(value, kinds)) or type(gold) is type(value):
        return None
    if any(isinstance(side, sympy.MatrixBase) and side.cols != 1 for side in (gold, value)):
        return None
    return list(gold), list(value)


def _same_number(gold: Any, value: Any) -> bool:
    if gold == value:
        return True
    if (gold.is_Rational and value.is_Rational) or not (gold.is_finite and value.is_finite):
        return False
    left, right = gold.evalf(_DIGITS), value.evalf(_DIGITS)
    size = max(abs(left), abs(right))
    return bool(abs(left - right) <= size * 10**-_AGREEING_DIGITS)


def _endless_numbers(gold: Any) -> Iterator[Any]:
    """The numbers in an exact value that no finite decimal can say."""
    if is_number(gold):
        if gold.is_finite and gold.is_real and not (gold.is_Rational and _is_decimal(gold.q)):
            yield gold
    elif isinstance(gold, (sympy.Basic, sympy.MatrixBase)):
        for part in _parts(gold):
            yield from _endless_numbers(part)


def _is_decimal(denominator: int) -> bool:
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _unrounded(value: Any, numbers: list[Any]) -> Any:
    """The value with each decimal that is one of the numbers, rounded, replaced by it."""
    if not numbers or not isinstance(value, (sympy.Basic, sympy.MatrixBase)):
        return value
    replaced = {}
    for decimal in value.atoms(sympy.Float):
        for number in numbers:
            for signed in (number, -number):
                near = float(signed.evalf(20))
                if abs(float(decimal) - near) <= _ROUNDING * min(1.0, abs(near)):
                    replaced[decimal] = signed
    return value.xreplace(replaced) if replaced else value


def _differ_somewhere(gold: Any, value: Any) -> bool:
    """Do values that Math-Verify takes for equal differ in a number, or at a point?

    It does not see differences below 1e-15.
    """
    if not (isinstance(gold, sympy.Expr) and isinstance(value, sympy.Expr)):
        numbers, others = (list(filter(is_number, _parts(side))) for side in (gold, value))
        return len(numbers) == len(others) and not all(
            any(_same_number(number, other) for other in others) for number in numbers
        )
    symbols = sorted(gold.free_symbols | value.free_symbols, key=str)
    point = {symbol: sympy.Rational(7 + 4 * i, 5 + 2 * i) for i, symbol in enumerate(symbols)}
    left, right = exact(gold.subs(point)), exact(value.subs(point))
    if not (is_number(left) and is_number(right) and left.is_finite and right.is_finite):
        return False
    return not _same_number(left, right)


def _parts(value: Any) -> list[Any]:
    return list(value.flat() if isinstance(value, sympy.MatrixBase) else value.args)


def _same_equation(gold: Any, value: Any) -> bool:
    """Do two equations in several unknowns have the same solutions, one a multiple of the other?"""
    if not (isinstance(gold, sympy.Equality) and isinstance(value, sympy.Equality)):
        return False
    if gold.free_symbols != value.free_symbols or len(gold.free_symbols) < 2:
        return False
    ratio = sympy.cancel((gold.lhs - gold.rhs) / (value.lhs - value.rhs))
    return bool(ratio.is_number and ratio != 0 and ratio.is_finite)


def _same_range(gold: Any, value: Any) -> bool:
    """Do two inequalities, or chains of them, describe the same numbers?"""
    if not all(grader.is_relation(side) and not grader.is_equation(side) for side in (gold, value)):
        return False
    if gold.free_symbols != value.free_symbols or len(gold.free_symbols) != 1:
        return False
    try:
        return bool(gold.as_set() == value.as_set())
    except NotImplementedError:
        return False
