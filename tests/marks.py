"""Marks for parameters of a test, so that ``make test`` runs only a few of them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def marked(mark: pytest.MarkDecorator, values: Iterable[Any], but: Collection[Any] = ()) -> list:
    """Mark all parameters except the first one or, if `but` is given, except those in `but`."""
    values = list(values)
    but = but or values[:1]
    return [value if value in but else _with(mark, value) for value in values]


def _with(mark: pytest.MarkDecorator, value: Any) -> Any:
    if isinstance(value, type(pytest.param())):
        return pytest.param(*value.values, marks=[*value.marks, mark], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=mark)
