"""Descent: from the whole network down, one move at a time, the cheapest loss per saved cost first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.graph.units import BLOCKS
from compress.prune.allocators.family import CostOf, Masks, Widths, best, prepare

#: Widths of a group that are tried at most; wider groups are walked in larger steps.
MAX_LEVELS = 32


@dataclass(frozen=True)
class Move:
    """One step down: a group goes to a smaller width, or a block goes.

    Attributes:
        group: Name of the group, or BLOCKS.
        mask_C: What stays of it.
    """

    group: str
    mask_C: Tensor


def levels(widths: Widths) -> list[int]:
    """Return the allowed widths of a group, ascending, at most MAX_LEVELS of them and always the ends.

    >>> levels(Widths(4, min_kept_ratio=0.5, round_to=1))
    [2, 3, 4]
    """
    counts, stride = widths.counts, -(-len(widths.counts) // MAX_LEVELS)
    return sorted({counts[0], *counts[::-stride]})


@dataclass(frozen=True)
class Offer:
    """A move that saves something.

    Attributes:
        move: The move.
        saved: Cost that it saves, above 0.
        place: Its number among all moves.
    """

    move: Move
    saved: float
    place: int


#: (masks, offers) -> index of the offer that is taken.
Choose = Callable[[Masks, Sequence[Offer]], int]


class Descent:
    """Where the walk can go from where it stands.

    Args:
        scores: Worth (C,) by group; the best channels of a group stay longest, and blocks go one by one.
        cost: Cost of masks.
        widths: Allowed widths by group.
        reach: Smaller widths of a group that are offered as one move; 1 offers the next alone.
    """

    def __init__(self, scores: Mapping[str, Tensor], cost: CostOf, widths: Mapping[str, Widths], *, reach: int) -> None:
        self.scores, self.cost, self.reach = scores, cost, reach
        self.levels = {name: levels(own) for name, own in widths.items() if name != BLOCKS}
        self.whole: Masks = {name: torch.ones(len(scores_C), dtype=torch.bool) for name, scores_C in scores.items()}

    @property
    def smallest(self) -> Masks:
        """The end of every walk."""
        found = {name: best(self.scores[name], counts[0]) for name, counts in self.levels.items()}
        if BLOCKS in self.scores:
            found[BLOCKS] = torch.zeros(len(self.scores[BLOCKS]), dtype=torch.bool)
        return {name: found[name] for name in self.scores}

    def moves(self, masks: Mapping[str, Tensor]) -> Iterator[Move]:
        """Yield the moves from `masks`; of one group the smallest step first."""
        for name, counts in self.levels.items():
            smaller = [count for count in counts if count < int(masks[name].sum())]
            for count in smaller[-self.reach :][::-1]:
                yield Move(name, best(self.scores[name], count))
        for k in masks[BLOCKS].nonzero().flatten().tolist() if BLOCKS in masks else ():
            mask_C = masks[BLOCKS].clone()
            mask_C[k] = False
            yield Move(BLOCKS, mask_C)

    def walk(self, choose: Choose) -> Iterator[Masks]:
        """Yield every state from the whole network to the smallest; each contains the next.

        Args:
            choose: Says which move is made. Only asked for moves that save something; when none does, the least
                cut of any group is made.
        """
        masks, spent = dict(self.whole), self.cost(self.whole)
        yield masks
        while moves := list(self.moves(masks)):
            states = [{**masks, move.group: move.mask_C} for move in moves]
            prepare(self.cost, states)
            after = [self.cost(state) for state in states]
            saving = [Offer(moves[k], spent - rest, k) for k, rest in enumerate(after) if rest < spent]
            if saving:
                chosen = saving[choose(masks, saving)].place
            else:
                chosen = max(range(len(moves)), key=lambda k: (int(moves[k].mask_C.sum()), -k))
            masks = {**masks, moves[chosen].group: moves[chosen].mask_C}
            spent = after[chosen]
            yield masks


def by_worth(scores: Mapping[str, Tensor]) -> Choose:
    """Return the choice of the move that loses least worth for the cost that it saves."""

    def choose(masks: Masks, offers: Sequence[Offer]) -> int:
        prices = [worth_lost(scores, masks, offer.move) / offer.saved for offer in offers]
        return min(range(len(offers)), key=lambda k: (prices[k], k))

    return choose


def first_fit(states: Iterator[Masks], cost: CostOf, limit: float) -> Masks:
    """Return the first state of a walk whose cost is within `limit`; the last one always is."""
    for masks in states:
        if cost(masks) <= limit:
            return masks
    raise AssertionError("the smallest state was checked before the walk")


def worth_lost(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], move: Move) -> float:
    """Return the worth of what a move takes away."""
    gone_C = masks[move.group] & ~move.mask_C
    return float(scores[move.group].double()[gone_C].sum())
