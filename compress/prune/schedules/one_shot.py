"""Cut once, then fine-tune."""

from __future__ import annotations

from compress.core.model import Model
from compress.prune.schedules.family import SCHEDULES, Choose, PruneTo, Train


@SCHEDULES.register("one_shot", paper="Li 2017")
def one_shot(model: Model, prune_to: PruneTo, train: Train, choose: Choose) -> Model:
    """Cut to the budget at once, then fine-tune.

    model' = train(prune_to(model, 1), 1).

    Args:
        model: What is cut.
        prune_to: Cuts.
        train: Fine-tunes.
        choose: Not asked.

    Returns:
        The model within the budget.

    Differs from the paper: no difference ("prune once and retrain").

    Cost: one scoring, one fine-tuning.

    Reference: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.4.

    >>> one_shot("m", lambda m, depth: f"cut({m}, {depth})", lambda m, share: f"train({m}, {share})", None)
    'train(cut(m, 1.0), 1.0)'
    """
    return train(prune_to(model, 1.0), 1.0)
