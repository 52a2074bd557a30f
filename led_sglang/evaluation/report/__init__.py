"""From finished samples to numbers, tables, figures and pages."""

from __future__ import annotations
