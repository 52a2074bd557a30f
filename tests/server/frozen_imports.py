"""Imported last where processes are forked from: no garbage collection looks through the imports.

SGLang collects several times in each start, a second each among all that is imported; and a
collection writes to every object, so that no page stays shared.
"""

from __future__ import annotations

import gc

gc.collect()
gc.freeze()
