"""The think phase at each node of a draft, in plain torch: what a verified token is drawn in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .phase import DeviceTables


@dataclass(frozen=True)
class DraftTree:
    """Drafted tokens of B requests, D nodes each; node 0 is the root, the last token committed.

    Attributes:
        tokens: [B, D] int64.
        first_child, next_sibling: [B, D] int64 nodes; -1 where there is none.
    """

    tokens: Tensor
    first_child: Tensor
    next_sibling: Tensor


def node_states(tree: DraftTree, roots: Tensor, tables: DeviceTables) -> Tensor:
    """States [B, D] int64 in which the token behind each node is drawn.

    A token is a map from states to states. Every node but the root has one link to it, of its
    parent (through the parent's token) or of the sibling before it (which enters in the same
    state). The links' maps are composed along all ways at once, twice as far in each round.

    Args:
        tree: of the drafts.
        roots: [B] int64, the state behind each root.
        tables: the automaton.
    """
    batch, width = tree.tokens.shape
    count = tables.transitions.shape[0]
    outside = tables.token_class.shape[0] - 1
    kinds = tables.token_class[tree.tokens.clamp(-1, outside)]
    token_maps = tables.transitions.t()[kinds]  # [B, D, S]
    same = torch.arange(count, device=roots.device)
    token_maps[:, 0] = same  # what the root's token did is in `roots`
    # Where each node is linked to, and the map of the link; a column more takes what has no child.
    nodes = torch.arange(width, device=roots.device).expand(batch, width)
    links = torch.zeros(batch, width + 1, dtype=torch.int64, device=roots.device)
    maps = same.repeat(batch, width + 1, 1)
    child = torch.where(tree.first_child < 0, width, tree.first_child)
    sibling = torch.where(tree.next_sibling < 0, width, tree.next_sibling)
    links.scatter_(1, child, nodes).scatter_(1, sibling, nodes)
    maps.scatter_(1, child[:, :, None].expand_as(token_maps), token_maps)
    links, maps = links[:, :width], maps[:, :width]
    for _ in range((width - 1).bit_length()):
        # First what led to the node of the link, then the link.
        earlier = maps.gather(1, links[:, :, None].expand_as(maps))
        maps, links = maps.gather(2, earlier), links.gather(1, links)
    entered = maps.gather(2, roots[:, None, None].expand(batch, width, 1))
    return token_maps.gather(2, entered)[:, :, 0]
