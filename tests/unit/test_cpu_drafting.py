"""What a draft model needs on the CPU platform, each piece against its definition."""

from __future__ import annotations

import inspect

import pytest
import torch
from drafts import Draft
from sglang.srt.speculative import spec_utils
from sglang.srt.speculative.eagle_utils import organize_draft_results

from led_sglang.patches.cpu import drafting

REQUESTS = 30
# Branches, steps and nodes of a draft: chains, one step alone, and trees of which not all is kept.
SHAPES = [(1, 1, 2), (1, 3, 4), (4, 1, 3), (2, 2, 7), (3, 4, 8), (4, 3, 12)]


@pytest.mark.parametrize(("topk", "steps", "width"), SHAPES)
def test_a_tree_holds_the_ways_that_were_drafted(topk: int, steps: int, width: int) -> None:
    """SGLang drafts, each token another one: the way to a node is what its branch had drafted."""
    torch.manual_seed(topk)
    later = inspect.unwrap(spec_utils._select_top_k_tokens_later)
    drawn = REQUESTS * topk * topk
    ways: dict[int, list[int]] = {}
    found, scores = [], None
    branches: list[list[int]] = [[] for _ in range(REQUESTS)]
    for step in range(steps):
        rows = REQUESTS if step == 0 else REQUESTS * topk
        probs = torch.rand(rows, topk).sort(descending=True).values
        tokens = torch.arange(rows * topk).view(rows, topk) + step * drawn
        for row, way in enumerate(branches):
            ways |= {token: [*way, token] for token in tokens[row].tolist()}
        if step == 0:
            taken, _, scores, tree = spec_utils.select_top_k_tokens(
                0, probs, tokens, None, scores, topk
            )
        else:
            taken, _, scores, tree = later(step, probs, tokens, None, scores, topk)
        branches = [ways[token] for token in taken.tolist()]
        found.append(tree)
    parents, chosen, tokens = organize_draft_results(*map(list, zip(*found, strict=True)), width)

    lengths = torch.arange(REQUESTS) * 5 + 2
    positions = torch.empty(REQUESTS * width, dtype=torch.int64)
    links = [torch.full((REQUESTS, width), -1) for _ in range(3)]
    mask = torch.ones(int((lengths + width).sum()) * width, dtype=torch.bool)
    drafting.build_tree(parents, chosen, lengths, mask, positions, *links, topk, steps, width, 0)
    begin = 0
    for row, length in enumerate(lengths.tolist()):
        nodes = {token: node + 1 for node, token in enumerate(tokens[row].tolist())}
        of = [-1] + [nodes[way[-2]] if len(way := ways[t]) > 1 else 0 for t in nodes]
        draft = Draft((0, *nodes), tuple(of))
        end = begin + width * (length + width)
        seen = mask[begin:end].view(width, length + width)
        assert seen[:, :length].all()
        assert torch.equal(seen[:, length:], draft.mask())
        depths = [len(draft.way(node)) for node in range(width)]
        assert positions.view(-1, width)[row].tolist() == [length + depth for depth in depths]
        assert links[0][row].tolist() == [row * width + node for node in range(width)]
        assert links[1][row].tolist() == draft.first_child
        assert links[2][row].tolist() == draft.next_sibling
        begin = end
    assert begin == len(mask)


def test_slots_and_last_tokens_of_a_draft() -> None:
    table = torch.arange(60, dtype=torch.int32).view(3, 20)
    slots = torch.empty(12, dtype=torch.int64)
    drafting.draft_slots(torch.tensor([2, 0]), table, torch.tensor([4, 7]), slots, 2, 3)
    assert slots.tolist() == [*range(44, 50), *range(7, 13)]
    last = torch.empty(2, dtype=torch.int32)
    accepted = torch.tensor([[5, 6, 7], [8, 9, 1]], dtype=torch.int32)
    drafting.last_accepted(accepted, torch.tensor([1, 3], dtype=torch.int32), last, 3, 2)
    assert last.tolist() == [5, 1]


def test_what_the_step_before_has_left_is_read_by_slot() -> None:
    probs, ids, tokens = torch.rand(5, 2), torch.arange(10).view(5, 2), torch.arange(5)
    at = torch.tensor([4, 1])
    found = drafting.gather(at, probs, ids, tokens, None)
    assert torch.equal(found[0], probs[at])
    assert found[1].tolist() == [[8, 9], [2, 3]]
    assert found[2].tolist() == [4, 1]
    assert found[3] is None
    assert torch.equal(drafting.gather(at, probs, ids, tokens, probs)[3], probs[at])
