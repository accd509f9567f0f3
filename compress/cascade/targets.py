"""Targets: which point of a cascade's curve to take."""

from __future__ import annotations

from collections.abc import Callable

from compress.cascade.curve import Curve
from compress.core.budget import Infeasible
from compress.core.registry import Family

#: (curve) -> index of the chosen cut.
TARGETS: Family[Callable[..., int]] = Family("target", data=("curve",))

_ROUNDING = 1e-9


@TARGETS.register("accuracy")
def accuracy(curve: Curve, *, tolerance: float = 0.0, margin: float = 0.05) -> int:
    """Take the cheapest cut that is as accurate as the large network.

    argmin_t macs_t  subject to  accuracy_t >= accuracy_large - tolerance
                     and         deferred_t >= deferred of the first such cut + margin

    A small validation set often says "defer nothing" by luck; `margin` pays for that luck with a
    fixed share of extra deferrals.

    Args:
        curve: Curve on validation data.
        tolerance: Accuracy that may be lost against the large network, 0..1.
        margin: Share of the inputs deferred on top of the smallest share that suffices, 0..1.

    Returns:
        Index into the curve. Deferring everything always qualifies, so there is one.

    Differs from the paper: no paper; plain calibration.

    Cost: linear in the curve.

    Reference: none.

    >>> from torch import ones, tensor
    >>> from compress.cascade.curve import curve_of
    >>> scores, small, large = tensor([0.1, 0.5, 0.9]), tensor([1.0, 1, 0]), ones(3)
    >>> curve = curve_of(scores, small, large, small_macs=1, large_macs=4)
    >>> accuracy(curve, margin=0.0), accuracy(curve, margin=0.05)
    (1, 2)
    """
    is_accurate = curve.accuracy_T >= curve.large_accuracy - tolerance - _ROUNDING
    first = int(is_accurate.int().argmax())
    if margin <= 0:
        return first
    least = min(1.0, float(curve.deferred_T[first]) + margin)
    return int((is_accurate & (curve.deferred_T >= least - _ROUNDING)).int().argmax())


@TARGETS.register("cost")
def cost(curve: Curve, *, macs_ratio: float = 0.6, margin: float = 0.02) -> int:
    """Take the most accurate cut whose expected multiply-adds stay within a part of the large network's.

    argmax_t accuracy_t  subject to  macs_t / macs_large <= macs_ratio - margin

    Of equally accurate cuts the one that defers most is taken: the limit says what may be spent, and
    equal counts on a small validation set do not mean equal accuracy.

    Args:
        curve: Curve on validation data.
        macs_ratio: Expected multiply-adds of the cascade over those of the large network, above 0.
        margin: Kept back from `macs_ratio`, because new data may defer more than validation data did.

    Returns:
        Index into the curve.

    Raises:
        Infeasible: The small network alone costs more.

    Differs from the paper: no paper; plain calibration.

    Cost: linear in the curve.

    Reference: none.

    >>> from torch import ones, tensor
    >>> from compress.cascade.curve import curve_of
    >>> scores, small, large = tensor([0.1, 0.5, 0.9]), tensor([1.0, 1, 0]), ones(3)
    >>> curve = curve_of(scores, small, large, small_macs=1, large_macs=4)
    >>> cost(curve, macs_ratio=0.61), cost(curve, macs_ratio=1.0)
    (1, 2)
    """
    is_affordable = curve.macs_ratio_T <= macs_ratio - margin + _ROUNDING
    if not bool(is_affordable.any()):
        raise Infeasible("expected_macs_ratio", macs_ratio, float(curve.macs_ratio_T[0]) + margin)
    best = curve.accuracy_T[is_affordable].max()
    is_best = is_affordable & (curve.accuracy_T >= best - _ROUNDING)
    return int(is_best.nonzero().max())
