"""The seed of a sample, from the run's seed and the sample's place in the run."""

from __future__ import annotations

import hashlib
import json

_BITS = 53  # every JSON reader keeps such a number exactly


def sample_seed(run_seed: int, task: str, item: str, sample: int, *, per_sample: bool) -> int:
    """The seed that a sample's request carries.

    Standard errors take the problems to be independent, so each problem has seeds of its own. The
    samplers and temperatures of a run share them: their paired differences are the surer for it.

    Args:
        item: id of the problem.
        sample: its index, from 0.
        per_sample: the authors' way instead, `run_seed` + index for every problem alike.

    Returns:
        A whole number below 2**53, or `run_seed` + `sample`.
    """
    if per_sample:
        return run_seed + sample
    name = json.dumps([run_seed, task, item, sample]).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest()) >> (64 - _BITS)
