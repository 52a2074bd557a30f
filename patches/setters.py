"""Capture by the setter of SGLang's model class, which speculative decoding calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from led_sglang.patches.lm_head import causal_lm, decoder_stack

SETTERS = {"dflash": "set_dflash_layers_to_capture", "eagle3": "set_eagle3_layers_to_capture"}

_Marks = dict[str, Any]
_ABSENT = object()


class SetterCapture:
    """What a setter has changed in a model: the attributes in which SGLang keeps its marks.

    Args:
        model: a loaded SGLang model.
        setter: name of the setter.
        layer_ids: what it is called with: 0-based layers whose outputs are wanted.

    Raises:
        AttributeError: the model has no such setter, or one that does not fit its stack.
    """

    def __init__(self, model: Any, setter: str, layer_ids: list[int]) -> None:
        language_model, stack = causal_lm(model), decoder_stack(model)
        owners = (language_model, model)
        owner = next((o for o in owners if hasattr(o, setter)), language_model)
        places = [model, language_model, language_model.model, stack, *stack.layers]
        places = list({id(place): place for place in places}.values())
        before = [_plain_attributes(place) for place in places]
        self._changes: list[tuple[Any, _Marks, _Marks]] = []
        try:
            getattr(owner, setter)(list(layer_ids))
        except BaseException:
            self._note_changes(places, before)
            self.remove()  # of one that gives up halfway
            raise
        self._note_changes(places, before)

    def _note_changes(self, places: list[Any], before: list[_Marks]) -> None:
        for place, old in zip(places, before, strict=True):
            new = {k: v for k, v in _plain_attributes(place).items() if old.get(k, _ABSENT) != v}
            if new:
                self._changes.append((place, {k: old.get(k, _ABSENT) for k in new}, new))

    def marked(self) -> list[list[int]]:
        """The numbers of layers that the setter has noted, ascending; mostly one list."""
        values = (value for _, _, new in self._changes for value in new.values())
        return [sorted(v) for v in values if v is not None and not isinstance(v, int)]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model as it was before the setter was called."""
        self.remove()
        try:
            yield
        finally:
            for place, _, new in self._changes:
                _put(place, new)

    def remove(self) -> None:
        """Take the marks off."""
        for place, old, _ in self._changes:
            _put(place, old)


def _plain_attributes(place: Any) -> _Marks:
    """Flags, numbers and collections of numbers, the latter copied."""
    found: _Marks = {}
    for name, value in vars(place).items():
        if value is None or isinstance(value, int):
            found[name] = value
        elif isinstance(value, (list, tuple, set, frozenset)) and _are_numbers(value):
            found[name] = type(value)(value)
    return found


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def _put(place: Any, attributes: _Marks) -> None:
    for name, value in attributes.items():
        if value is _ABSENT:
            vars(place).pop(name, None)
        else:
            setattr(place, name, value)
