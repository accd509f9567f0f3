"""Cut a little, fine-tune a little, again."""

from __future__ import annotations

from compress.core.model import Model
from compress.prune.schedules.family import SCHEDULES, Choose, PruneTo, Train


@SCHEDULES.register("progressive", paper="Zhu 2018", idea="D3")
def progressive(model: Model, prune_to: PruneTo, train: Train, choose: Choose, *, steps: int = 3) -> Model:
    """Cut in several steps, large ones first, with a part of the fine-tuning behind each.

    After step t of n the cost went 1 - (1 - t / n)³ of the way to the budget.

    Args:
        model: What is cut.
        prune_to: Cuts.
        train: Fine-tunes; each step gets the share 1 / n.
        choose: Not asked.
        steps: n, at least 1.

    Returns:
        The model within the budget.

    Differs from the paper: channels instead of single weights; the cubic law is that of the cost, not of the
    number of weights; fine-tuning between the steps has its own learning-rate schedule.

    Cost: n scorings, one fine-tuning in n parts.

    Reference: Zhu and Gupta, "To Prune, or Not to Prune", ICLR workshop 2018, equation 1.

    >>> depths = []
    >>> _ = progressive("m", lambda m, depth: depths.append(depth), lambda m, share: m, None, steps=2)
    >>> depths
    [0.875, 1.0]
    """
    if steps < 1:
        raise ValueError(f"steps={steps!r}: progressive pruning takes at least 1 step.")
    for step in range(1, steps + 1):
        model = train(prune_to(model, 1 - (1 - step / steps) ** 3), 1 / steps)
    return model
