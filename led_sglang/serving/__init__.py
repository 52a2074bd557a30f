"""`led-sglang serve`: what is checked before SGLang is imported, what is said once it serves."""

from __future__ import annotations
