"""Space and Candidate: what may vary in a network, and one choice of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compress.core.registry import Family
from compress.graph.units import ChannelGroup, is_inside

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution

#: Value of one decision: number of channels kept, or whether a block is kept.
Choice = int | bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One choice of everything that may vary. Blocks are dropped first, then channels of what remains.

    Attributes:
        widths: Number of channels kept, by group. Groups that lie wholly in dropped blocks stay at full width,
            so that equal networks are equal candidates.
        dropped: Blocks left out, in the order of the space.
    """

    widths: Mapping[str, int]
    dropped: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Equal for equal candidates, in every process.

        >>> Candidate(widths={"b": 2, "a": 1}).key
        '{"dropped":[],"widths":{"a":1,"b":2}}'
        """
        content = {"widths": dict(self.widths), "dropped": list(self.dropped)}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Space:
    """What may vary.

    Attributes:
        groups: Channel groups of the whole network.
        counts: By group, the numbers of channels that may be kept, ascending; the last is the full width.
        blocks: Blocks that may be left out, in module order.
    """

    groups: tuple[ChannelGroup, ...]
    counts: Mapping[str, tuple[int, ...]]
    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for group in self.groups:
            counts = self.counts[group.name]
            assert list(counts) == sorted(set(counts)), group.name
            assert counts[0] >= 1, group.name
            assert counts[-1] == group.num_channels, group.name

    @property
    def largest(self) -> Candidate:
        """The whole network."""
        return Candidate(widths={name: counts[-1] for name, counts in self.counts.items()})

    @property
    def smallest(self) -> Candidate:
        """Everything that may go, gone."""
        return self.settled({name: counts[0] for name, counts in self.counts.items()}, self.blocks)

    @property
    def num_candidates(self) -> int:
        """How many choices there are, counting networks with dropped blocks once for each idle width."""
        total = int(2 ** len(self.blocks))
        for counts in self.counts.values():
            total *= len(counts)
        return total

    def settled(self, widths: Mapping[str, int], dropped: tuple[str, ...]) -> Candidate:
        """Return the candidate with these choices, in canonical form."""
        gone = tuple(block for block in self.blocks if block in dropped)
        full = {group.name: group.num_channels if is_idle(group, gone) else widths[group.name] for group in self.groups}
        return Candidate(widths=full, dropped=gone)

    def choices(self) -> dict[str, tuple[Choice, ...]]:
        """Return every decision that is one, with its choices; blocks first, as they are decided first."""
        found: dict[str, tuple[Choice, ...]] = {f"keep {block}": (False, True) for block in self.blocks}
        found |= {f"width {name}": counts for name, counts in self.counts.items() if len(counts) > 1}
        return found

    def distributions(self) -> dict[str, CategoricalDistribution]:
        """Return the decisions as optuna distributions."""
        from optuna.distributions import CategoricalDistribution

        return {name: CategoricalDistribution(choices) for name, choices in self.choices().items()}

    def decisions_of(self, candidate: Candidate) -> dict[str, Choice]:
        """Return a candidate as values of `choices`."""
        found: dict[str, Choice] = {f"keep {block}": block not in candidate.dropped for block in self.blocks}
        widths = {name: candidate.widths[name] for name, counts in self.counts.items() if len(counts) > 1}
        return found | {f"width {name}": count for name, count in widths.items()}

    def candidate_of(self, decisions: Mapping[str, Any]) -> Candidate:
        """Return the candidate that these values of `choices` describe."""
        widths = {name: int(decisions.get(f"width {name}", counts[-1])) for name, counts in self.counts.items()}
        return self.settled(widths, tuple(block for block in self.blocks if not decisions[f"keep {block}"]))


def is_idle(group: ChannelGroup, dropped: tuple[str, ...]) -> bool:
    """Return whether everything that makes this group's channels lies in dropped blocks."""
    return all(is_inside(member.path, dropped) for member in group.members if member.axis == "out")


#: (module, x_BCHW) -> Space.
SPACES: Family[Callable[..., Space]] = Family("space", data=("module", "x_BCHW"))
