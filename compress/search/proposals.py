"""Proposals that any search should try first: what a person would do by hand."""

from __future__ import annotations

from collections.abc import Callable

from compress.graph.units import is_inside
from compress.search.spaces.space import Candidate, Space


def opening(
    space: Space, project: Callable[[Candidate], Candidate], fits: Callable[[Candidate], bool]
) -> list[Candidate]:
    """Return a few sensible candidates on the budget, without repeats.

    1. Every width by the same part.
    2. Blocks alone, evenly spread over the depth, until the budget is met.
    3. Half of these blocks, then every width by the same part.
    4. Narrow inside the residual blocks, the streams between them wide.

    Args:
        space: What may vary.
        project: Moves a proposal onto the budget.
        fits: Whether a candidate keeps the limits, as far as it can be foreseen.
    """
    full = space.largest
    order = spread(space.blocks)
    num_needed = next((k for k in range(len(order) + 1) if fits(space.settled(full.widths, order[:k]))), len(order))
    inner = {
        group.name: space.counts[group.name][0]
        if any(is_inside(group.name.partition("#")[0], (block,)) for block in space.blocks)
        else group.num_channels
        for group in space.groups
    }
    proposals = [
        full,
        space.settled(full.widths, order[:num_needed]),
        space.settled(full.widths, order[: (num_needed + 1) // 2]),
        space.settled(inner, ()),
    ]
    unique = {candidate.key: candidate for candidate in map(project, proposals)}
    return list(unique.values())


def spread(blocks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the blocks in an order whose beginnings are spread evenly over the depth, the last block first.

    Places follow the golden-ratio sequence, of which every beginning fills the line evenly.

    >>> spread(("a", "b", "c", "d"))
    ('d', 'c', 'a', 'b')
    """
    left, order = list(range(len(blocks))), []
    place = 1.0 - 1e-9
    for _ in blocks:
        nearest = min(left, key=lambda k: (abs((k + 0.5) / len(blocks) - place), k))
        left.remove(nearest)
        order.append(blocks[nearest])
        place = (place + 0.6180339887498949) % 1.0
    return tuple(order)
