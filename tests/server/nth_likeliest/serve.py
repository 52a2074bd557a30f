"""`led-sglang serve` with the example method in the registry."""

from __future__ import annotations

import sys

from led_sglang.cli import main
from led_sglang.methods.registry import METHODS
from nth_likeliest import NthLikeliest

METHODS.append(NthLikeliest())
sys.exit(main(["serve", *sys.argv[1:]]))
