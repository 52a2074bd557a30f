"""Two nodes that were not started alike end, each with the sentence that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import PLAIN_COMMAND, PLAIN_ENVIRONMENT
from nodes import LED_COMMAND, ended_nodes

LED = ((), LED_COMMAND, {})
SHALLOWER = (("--led-depth", "4"), LED_COMMAND, {})
# SGLang's own launcher, LED not even loaded.
PLAIN = ((), PLAIN_COMMAND, PLAIN_ENVIRONMENT)


def test_other_flags(model_path: Path) -> None:
    for status, output in ended_nodes(model_path, LED, SHALLOWER):
        assert status == 2, output
        assert "Traceback" not in output
        (sentence,) = [line for line in output.splitlines() if "different LED settings" in line]
        assert "--led-depth (8 on node 0, 4 on node 1)" in sentence


@pytest.mark.parametrize("node_with_led", [0, 1])
def test_a_node_without_led(model_path: Path, node_with_led: int) -> None:
    nodes = [LED, PLAIN] if node_with_led == 0 else [PLAIN, LED]
    ended = ended_nodes(model_path, *nodes)
    status, output = ended[node_with_led]
    assert status == 2, output
    assert "Traceback" not in output
    plain = 1 - node_with_led
    assert f"node {plain} of this server decodes without LED, and node {node_with_led}" in output
    assert ended[plain][0] != 0
