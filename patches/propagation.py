"""A hooked function in every module that has imported it, found with one look at the modules."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import ModuleType


class Propagation:
    """Does what SGLang's `_propagate_patch` does, which looks at all names of all modules again for
    each hook: seconds of every process that starts.

    Args:
        paths: of the symbols that will be hooked.
        theirs: SGLang's function, for any other one.
    """

    def __init__(
        self, paths: Iterable[str], theirs: Callable[[object, object, object], int]
    ) -> None:
        self._theirs = theirs
        # Held, so that nothing else gets their id.
        self._originals = [x for path in paths if (x := _original(path)) is not None]
        self._places: dict[int, list[tuple[ModuleType, str]]] = {id(x): [] for x in self._originals}
        self._looked_at: set[str] = set()
        self._look()

    def __call__(self, original: object, wrapped: object, source_module: object) -> int:
        """Put `wrapped` where modules other than its own hold `original`; in how many places."""
        if id(original) not in self._places:
            return self._theirs(original, wrapped, source_module)
        self._look()
        replaced, places = 0, self._places.pop(id(original))
        for module, name in places:
            if module is not source_module and vars(module).get(name) is original:
                setattr(module, name, wrapped)
                replaced += 1
        # There may be a hook on the same function under another name.
        self._originals.append(wrapped)
        self._places[id(wrapped)] = places
        return replaced

    def _look(self) -> None:
        """Note who holds what, in the modules that were imported since the last look."""
        for title in sys.modules.keys() - self._looked_at:
            self._looked_at.add(title)
            module = sys.modules.get(title)
            if isinstance(module, ModuleType):
                for name, value in list(vars(module).items()):
                    if (places := self._places.get(id(value))) is not None:
                        places.append((module, name))


def _original(path: str) -> object:
    """What SGLang will take for the symbol; None where there is none."""
    owner, _, name = path.rpartition(".")
    with suppress(ImportError, AttributeError, ValueError):
        found = getattr(pkgutil.resolve_name(owner), name)
        return getattr(found, "__func__", found)  # of a class method
    return None
