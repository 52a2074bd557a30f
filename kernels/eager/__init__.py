"""The steps in plain torch, on any device."""

from .step import EagerStep

__all__ = ["EagerStep"]
