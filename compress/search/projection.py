"""Projection: moves any proposal onto the budget, so that no trial is wasted on a network that cannot win."""

from __future__ import annotations

from collections.abc import Mapping

from compress.measure.aim import CLOSE, next_aim
from compress.search.spaces.space import Candidate, Space
from compress.search.spending import Spending

#: Halvings when looking for the common scale.
NUM_HALVINGS = 24
#: Rounds of project, measure, correct when a limit can only be measured.
NUM_CORRECTIONS = 5


class Projection:
    """Maps a proposal to the candidate that is evaluated in its place. Deterministic.

    1. While the proposal would not fit even at its smallest widths, its last remaining block is dropped.
    2. All widths are multiplied by one factor, the largest that fits; each is rounded down to a choice of the
       space. The factor may be above 1, because a network below its budget is seldom the best one.
    3. What rounding left over is spent: widths go up by one choice where that fits, those that lost most by
       rounding first, until none fits.

    Blocks that the proposal drops stay dropped. A limit that can only be measured (latency, size) is first
    foreseen from counts; then the candidate is measured and the aim is moved by what was off, a few times.
    The aim that was learnt serves the next proposal that drops about as many blocks.
    """

    def __init__(self, space: Space, spending: Spending) -> None:
        self._space, self._spending = space, spending
        self._aims = {0: 1.0}
        self._done: dict[str, Candidate] = {}

    def __call__(self, proposal: Candidate) -> Candidate:
        """Return the candidate on the budget that is nearest to `proposal` in proportion."""
        if proposal.key not in self._done:
            self._done[proposal.key] = self._projected(proposal)
        return self._done[proposal.key]

    def _projected(self, proposal: Candidate) -> Candidate:
        depth = len(proposal.dropped)
        aim = self._aims[min(self._aims, key=lambda known: (abs(known - depth), known))]
        candidate = self._fitted(proposal, aim)
        if self._spending.is_exact:
            return candidate
        seen: dict[str, tuple[float, Candidate]] = {}
        tried: list[tuple[float, float]] = []
        for _ in range(NUM_CORRECTIONS):
            spent = 1 + self._spending.excess(candidate)
            seen[candidate.key] = (spent, candidate)
            tried.append((aim, spent))
            if CLOSE <= spent <= 1:
                break
            aim = next_aim(tried)
            candidate = self._fitted(proposal, aim)
            if candidate.key in seen:
                break
        self._aims[depth] = aim
        return max(seen.values(), key=lambda found: found[0] if found[0] <= 1 else -found[0])[1]

    def _fitted(self, proposal: Candidate, aim: float) -> Candidate:
        """Steps 1 to 3 with the limits as they are foreseen."""
        lowest = {name: counts[0] for name, counts in self._space.counts.items()}
        dropped = proposal.dropped
        for block in reversed(self._space.blocks):
            if self._spending.foreseen(self._space.settled(lowest, dropped), aim) <= 1:
                break
            dropped = (*dropped, block)
        scale = self._largest_scale(proposal.widths, dropped, aim)
        return self._filled(proposal.widths, scale, dropped, aim)

    def _scaled(self, widths: Mapping[str, int], scale: float, dropped: tuple[str, ...]) -> Candidate:
        scaled = {}
        for name, counts in self._space.counts.items():
            allowed = [count for count in counts if count <= widths[name] * scale + 1e-9]
            scaled[name] = allowed[-1] if allowed else counts[0]
        return self._space.settled(scaled, dropped)

    def _largest_scale(self, widths: Mapping[str, int], dropped: tuple[str, ...], aim: float) -> float:
        low, high = 0.0, max((counts[-1] / widths[name] for name, counts in self._space.counts.items()), default=1.0)
        if self._spending.foreseen(self._scaled(widths, high, dropped), aim) <= 1:
            return high
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            if self._spending.foreseen(self._scaled(widths, middle, dropped), aim) <= 1:
                low = middle
            else:
                high = middle
        return low

    def _filled(self, widths: Mapping[str, int], scale: float, dropped: tuple[str, ...], aim: float) -> Candidate:
        candidate, has_grown = self._scaled(widths, scale, dropped), True
        lost = {name: widths[name] * scale / counts[-1] for name, counts in self._space.counts.items()}
        while has_grown:
            has_grown = False
            for name in sorted(
                lost, key=lambda name: candidate.widths[name] / self._space.counts[name][-1] - lost[name]
            ):
                wider = [count for count in self._space.counts[name] if count > candidate.widths[name]]
                if not wider:
                    continue
                grown = self._space.settled({**candidate.widths, name: wider[0]}, dropped)
                if self._spending.foreseen(grown, aim) <= 1:
                    candidate, has_grown = grown, True
        return candidate
