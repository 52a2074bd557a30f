"""What speculative decoding needs on the CPU platform, each piece against its definition."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from drafts import Draft, drafted
from scipy.stats import chisquare
from torch import Tensor

from led_sglang.kernels.draft_tree import DraftTree, node_states
from led_sglang.patches.cpu import speculation
from led_sglang.phase import Phase, ThinkAutomaton

VOCAB = 9
# Chains, trees, drafts of a root alone, and siblings that hold the same token (NGRAM's padding).
SHAPES = [[-1], [-1, 0, 1, 2], [-1, 0, 0, 0], [-1, 0, 0, 1, 1, 2, 4, 4], [-1, 0, 1, 2, 3, 4, 0, 0]]


def drafts(seed: int = 0, count: int = 40) -> list[list[Draft]]:
    """Batches of drafts of one width each."""
    rng = random.Random(seed)
    return [
        [Draft(tuple(rng.choices(range(VOCAB), k=len(shape))), tuple(shape)) for _ in range(count)]
        for shape in SHAPES
    ] + [[Draft.drawn(rng, 8, VOCAB) for _ in range(count)]]


def test_trees_are_rebuilt_from_their_masks() -> None:
    for batch in drafts():
        size, width = len(batch), batch[0].width
        lengths = torch.arange(size) * 7 + 3
        masks = torch.stack([draft.mask() for draft in batch])
        found = [torch.full((size, width), -7) for _ in range(4)]
        positions = found[0].view(-1)
        speculation.reconstruct_tree(masks.flatten(), lengths, positions, *found[1:], size, width)
        for row, draft in enumerate(batch):
            depths = [len(draft.way(node)) for node in range(width)]
            assert found[0][row].tolist() == [int(lengths[row]) + depth for depth in depths]
            assert found[1][row].tolist() == [row * width + node for node in range(width)]
            assert found[2][row].tolist() == draft.first_child
            assert found[3][row].tolist() == draft.next_sibling


def test_a_draft_is_followed_as_long_as_it_holds_the_tokens() -> None:
    rng = random.Random(1)
    for batch in drafts():
        width = batch[0].width
        for longest in {width, 1, min(width, 3)}:
            wanted = torch.tensor([rng.choices(range(VOCAB), k=width) for _ in batch])
            tensors = drafted(batch)
            predicts = torch.zeros(len(batch) * width, dtype=torch.int32)
            accepted = torch.full((len(batch), longest), -1, dtype=torch.int32)
            count = torch.empty(len(batch), dtype=torch.int32)
            speculation.follow_tokens(predicts, accepted, count, *tensors, wanted)
            for row, draft in enumerate(batch):
                way = [0]
                while len(way) < longest:
                    children = [
                        node
                        for node in range(width)
                        if draft.parents[node] == way[-1]
                        and draft.tokens[node] == wanted[row, way[-1]]
                    ]
                    if not children:
                        break
                    way.append(children[0])
                assert int(count[row]) == len(way) - 1
                nodes = [row * width + node for node in way]
                assert accepted[row].tolist() == nodes + [-1] * (longest - len(way))
                assert predicts[nodes].tolist() == wanted[row, way].tolist()


def test_the_engines_verification_draws_from_the_posterior_whatever_is_drafted() -> None:
    """First tokens follow the root's posterior, and those behind an accepted one its node's."""
    torch.manual_seed(5)
    count = 20_000
    draft = Draft((3, 1, 4, 2), (-1, 0, 0, 1))
    probs = torch.rand(4, VOCAB).pow(2)
    probs[0, 1], probs[1, 2] = 1.5, 0.0  # often accepted; never
    probs /= probs.sum(1, keepdim=True)
    coins, last = torch.rand(count, 4), torch.rand(count)
    predicts = torch.zeros(count * 4, dtype=torch.int32)
    accepted = torch.full((count, 4), -1, dtype=torch.int32)
    number = torch.empty(count, dtype=torch.int32)
    candidates, index, child, sibling = drafted([draft] * count)
    target = probs.expand(count, 4, VOCAB)
    speculation.sample_tree(
        predicts=predicts,
        accept_index=accepted,
        accept_token_num=number,
        candidates=candidates,
        retrive_index=index,
        retrive_next_token=child,
        retrive_next_sibling=sibling,
        uniform_samples=coins,
        uniform_samples_for_final_sampling=last,
        target_probs=target,
        draft_probs=torch.zeros(count, 4, VOCAB),
        threshold_single=1.0,
        threshold_acc=1.0,
        deterministic=True,
    )
    tokens = predicts.view(count, 4)
    assert_fits(tokens[:, 0], probs[0])
    behind = accepted[:, 1] % 4 == 1
    assert int(behind.sum()) > count // 4
    assert_fits(tokens[behind, 1], probs[1])
    # The test has power.
    with pytest.raises(AssertionError):
        assert_fits(tokens[:, 0], probs[2])


def assert_fits(tokens: Tensor, probs: Tensor) -> None:
    counts = torch.bincount(tokens.long(), minlength=VOCAB).double()
    assert counts[probs == 0].sum() == 0
    live = probs > 0
    expected = probs[live].double() / probs[live].double().sum() * len(tokens)
    assert chisquare(counts[live], expected).pvalue > 1e-4


def test_filters_keep_what_their_names_say_and_sum_to_one() -> None:
    torch.manual_seed(2)
    probs = torch.rand(6, 50).pow(3)
    probs /= probs.sum(1, keepdim=True)
    top_ks = torch.tensor([1, 3, 50, 1 << 30, 7, 20], dtype=torch.int32)
    top_ps = torch.tensor([1e-6, 0.3, 0.9, 1.0, 0.5, 0.99])
    by_rank, by_mass = speculation.keep_top_k(probs, top_ks), speculation.keep_top_p(probs, top_ps)
    for row in range(6):
        order = probs[row].sort(descending=True, stable=True).indices.tolist()
        kept = order[: int(top_ks[row])]
        mass, nucleus = 0.0, []
        for token in order:
            if mass <= float(top_ps[row]):
                nucleus.append(token)
            mass += float(probs[row, token])
        for found, ids in ((by_rank[row], kept), (by_mass[row], nucleus)):
            truth = torch.zeros(50).double()
            truth[ids] = probs[row, ids].double() / probs[row, ids].double().sum()
            torch.testing.assert_close(found.double(), truth, atol=1e-6, rtol=1e-5)


def test_slots_of_drafts_are_assigned_read_and_packed() -> None:
    table = torch.zeros(5, 20, dtype=torch.int32)
    requests, starts = torch.tensor([3, 1, 4]), torch.tensor([2, 0, 7])
    ends = starts + torch.tensor([4, 3, 5])
    speculation.assign_slots(requests, table, starts, ends, torch.arange(100, 112), 3)
    assert table[3, 2:6].tolist() == [100, 101, 102, 103]
    assert table[1, :3].tolist() == [104, 105, 106]
    assert table[4, 7:12].tolist() == [107, 108, 109, 110, 111]
    assert int((table > 0).sum()) == 12
    window = speculation.extend_cache_locs(
        req_pool_indices=requests, req_to_token=table, start_offset=starts, end_offset=starts + 3,
        batch_size=3, draft_token_num=3, device="cpu",
    )  # fmt: skip
    assert window.tolist() == [100, 101, 102, 104, 105, 106, 107, 108, 109]
    assert window.dtype == torch.int64
    front = torch.zeros(9, dtype=torch.int64)
    speculation.front_slots(torch.tensor([2, 1, 3]), window, front)
    assert front.tolist() == [100, 101, 104, 107, 108, 109, 0, 0, 0]
    accepted = torch.tensor([[0, 2, -1], [3, -1, -1], [6, 7, 8]], dtype=torch.int32)
    moved = torch.zeros(9, dtype=torch.int64)
    speculation.accepted_slots(accepted, window, moved, 9)
    assert moved.tolist() == [100, 102, 104, 107, 108, 109, 0, 0, 0]


def test_keys_and_values_are_moved_with_torch() -> None:
    pool = SimpleNamespace()
    speculation._move_with_torch(pool)
    assert pool.use_native_move_kv_cache


@pytest.mark.parametrize(
    "delimiters", [((1,), (2,)), ((1, 1, 2), (2, 2, 1)), ((1, 2, 1, 3), (1, 2, 2))]
)
def test_every_node_is_in_the_phase_of_its_way(delimiters: tuple[list[int], list[int]]) -> None:
    """The states that the host's automaton finds token by token, roots in every state."""
    automaton = ThinkAutomaton(*delimiters, tool_start=(5, 6))
    tables = automaton.device_tables(VOCAB, "cpu")
    rng = random.Random(3)
    thinking = set()
    for batch in drafts(seed=4):
        roots = [rng.randrange(automaton.num_states) for _ in batch]
        candidates, _, child, sibling = drafted(batch)
        tree = DraftTree(candidates, child, sibling)
        states = node_states(tree, torch.tensor(roots), tables)
        for row, draft in enumerate(batch):
            for node in range(draft.width):
                tokens = [draft.tokens[step] for step in draft.way(node)]
                want = automaton.advance(roots[row], tokens)
                assert int(states[row, node]) == want
                thinking.add(automaton.phase(want) == Phase.THINK)
    assert thinking == {True, False}
