"""What the commands share: how they end, what they read from flags, where they write."""

from __future__ import annotations
