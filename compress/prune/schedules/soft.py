"""Switch off what would go, train on, look again; cut only at the end."""

from __future__ import annotations

import math

from torch import Tensor

from compress.core.model import Model
from compress.prune.schedules.family import SCHEDULES, Choose, PruneTo, Train
from compress.prune.schedules.zeroing import given_back, taken, zeroed


def part_zeroed(step: int, steps: int, steepness: float) -> float:
    """Return (1 - e^(-steepness · step / steps)) / (1 - e^(-steepness)): from 0 to 1, fast at first.

    >>> [round(part_zeroed(step, 2, 2 * math.log(3)), 6) for step in (0, 1, 2)]
    [0.0, 0.75, 1.0]
    """
    part = step / steps
    return math.expm1(-steepness * part) / math.expm1(-steepness) if steepness else part


@SCHEDULES.register("soft", paper="He 2018", idea="D3")
def soft(
    model: Model,
    prune_to: PruneTo,
    train: Train,
    choose: Choose,
    *,
    steps: int = 4,
    steepness: float = 4.0,
    final_share: float = 0.5,
) -> Model:
    """Switch channels off instead of cutting them, so that they may return while all are trained; cut at the end.

    In step t of n what a cut to the depth (1 - e^(-k t/n)) / (1 - e^(-k)) would take away is switched off and the
    whole network is trained. For the next choice the weights that were switched off are added to what training made of
    them: what is then worth more than others returns with them. The last step has depth 1. Then comes the cut, and
    `final_share` of the fine-tuning for the cut network.

    Args:
        model: What is cut.
        prune_to: Cuts.
        train: Fine-tunes; each step gets the share (1 - final_share) / n.
        choose: Says what would go.
        steps: n, at least 1.
        steepness: k, at least 0: at 0 the zeroed part rises evenly, at 11 three quarters of it are reached in the first
            eighth, as in the paper on the asymptotic rise; large values are the first paper's constant part.
        final_share: Share of the fine-tuning behind the cut, in (0, 1).

    Returns:
        The model within the budget.

    Differs from the paper: steps are parts of the fine-tuning instead of single epochs, and each has its own
    learning-rate schedule; a channel is switched off at its readers instead of by a zero filter, because a zero
    filter lets the norm's bias through, and with that at 0 too the channel could not return (see `zeroed`); it is
    ranked by what it was plus what it learned instead of by what it learned alone, because in a few steps nothing
    grows from 0 to the size of the others (masked weights return like this in Guo et al., "Dynamic Network Surgery for
    Efficient DNNs", NeurIPS 2016);
    blocks are switched off as well, where the units hold them; the choice may span layers.

    Cost: n + 1 scorings, one fine-tuning in n + 1 parts, of which n train the network at full size.

    Reference: He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018,
    algorithm 1; the rise: He et al., "Asymptotic Soft Filter Pruning", IEEE Transactions on Cybernetics 2019.

    >>> from compress.prune.schedules.family import Choice
    >>> depths, shares = [], []
    >>> _ = soft("m", lambda m, depth: m, lambda m, share: shares.append(share) or m,
    ...          lambda m, depth: depths.append(round(depth, 2)) or Choice((), {}), steps=2)
    >>> depths, shares
    ([0.88, 1.0], [0.25, 0.25, 0.5])
    """
    if steps < 1:
        raise ValueError(f"steps={steps!r}: soft pruning takes at least 1 step.")
    if steepness < 0:
        raise ValueError(f"steepness={steepness!r}: must be 0 (an even rise) or more.")
    if not 0 < final_share < 1:
        raise ValueError(f"final_share={final_share!r}: the cut network and the one before need a part each: 0.5, say.")
    lost: dict[str, Tensor] = {}
    for step in range(1, steps + 1):
        whole = given_back(model, lost)
        off = zeroed(whole, choose(whole, part_zeroed(step, steps, steepness)))
        lost = taken(whole, off)
        model = train(off, (1 - final_share) / steps)
    return train(prune_to(model, 1.0), final_share)
