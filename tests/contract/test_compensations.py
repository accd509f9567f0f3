"""What every compensation promises."""

from itertools import pairwise

import pytest
import torch

from compress.core.random import generator
from compress.graph.stats import Moments
from compress.prune.compensations import COMPENSATIONS

C = 8
#: True = kept.
MASKS = {
    "some": torch.tensor([True, False, True, True, False, False, True, True]),
    "one": torch.arange(C) == 3,
    "all but one": torch.arange(C) != 3,
    "all": torch.ones(C, dtype=torch.bool),
    "nothing": torch.zeros(C, dtype=torch.bool),
}


def sample(seed, kind="dense"):
    """Values x_CN of channels: mixed with each other, or with equal, constant and dead ones among them."""
    draw = generator(seed, "values")
    x_CN = torch.randn(C, C, generator=draw, dtype=torch.float64) @ torch.randn(C, 200, generator=draw).double() + 1
    if kind == "degenerate":
        x_CN[1], x_CN[4], x_CN[5], x_CN[6] = 2 * x_CN[0] - 3, 0.75, 0.0, 0.0
    return x_CN


def moments_of(x_CN):
    return Moments("reader", x_CN.shape[1], x_CN.mean(1), torch.cov(x_CN, correction=0))


def error(x_CN, kept_C, mix):
    """Mean squared error (R,) of the removed channels."""
    return (x_CN[~kept_C] - mix.weights_RK @ x_CN[kept_C] - mix.shift_R[:, None]).square().mean(1)


@pytest.mark.parametrize("name", sorted(COMPENSATIONS))
@pytest.mark.parametrize("kind", ["dense", "degenerate"])
@pytest.mark.parametrize("kept", MASKS)
class TestEveryCompensation:
    def test_shape_and_no_writing(self, name, kind, kept):
        moments, kept_C = moments_of(sample(0, kind)), MASKS[kept].clone()
        before = moments.mean_C.clone(), moments.covariance_CC.clone()
        mix = COMPENSATIONS.bind(name)(moments, kept_C)
        num_kept = int(kept_C.sum())
        assert mix.weights_RK.shape == (C - num_kept, num_kept)
        assert mix.shift_R.shape == (C - num_kept,)
        assert mix.weights_RK.isfinite().all()
        assert mix.shift_R.isfinite().all()
        mix.weights_RK.add_(1)
        mix.shift_R.add_(1)
        assert torch.equal(moments.mean_C, before[0])
        assert torch.equal(moments.covariance_CC, before[1])
        assert torch.equal(kept_C, MASKS[kept])

    def test_it_never_makes_the_error_larger(self, name, kind, kept):
        x_CN, kept_C = sample(0, kind), MASKS[kept]
        missed_R = x_CN[~kept_C].square().mean(1)
        assert (error(x_CN, kept_C, COMPENSATIONS.bind(name)(moments_of(x_CN), kept_C)) <= missed_R + 1e-9).all()

    def test_the_mix_follows_its_channels(self, name, kind, kept):
        x_CN, kept_C = sample(1, kind), MASKS[kept]
        order = torch.randperm(C, generator=generator(1, "order"))

        def predicted(names_C):
            mask_C = kept_C[names_C]
            mix = COMPENSATIONS.bind(name)(moments_of(x_CN[names_C]), mask_C)
            found_RN = mix.weights_RK @ x_CN[names_C][mask_C] + mix.shift_R[:, None]
            return found_RN[names_C[~mask_C].argsort()]

        assert torch.allclose(predicted(order), predicted(torch.arange(C)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(set(COMPENSATIONS) - {"none"}))
def test_constants_are_replaced_exactly(name):
    x_CN, kept_C = sample(0, "degenerate"), torch.arange(C) != 4
    assert error(x_CN, kept_C, COMPENSATIONS.bind(name)(moments_of(x_CN), kept_C)).max() < 1e-12


@pytest.mark.parametrize("name", ["twin", "least_squares"])
def test_a_scaled_and_shifted_copy_is_replaced_exactly(name):
    x_CN, kept_C = sample(0, "degenerate"), torch.arange(C) != 1
    mix = COMPENSATIONS.bind(name, **({"ridge": 1e-10} if name == "least_squares" else {}))(moments_of(x_CN), kept_C)
    assert error(x_CN, kept_C, mix).max() < 1e-8 * x_CN[1].var()


def test_more_freedom_leaves_a_smaller_error():
    x_CN, kept_C = sample(2), MASKS["some"]
    errors = [
        error(x_CN, kept_C, COMPENSATIONS.bind(name)(moments_of(x_CN), kept_C))
        for name in ("none", "bias_absorption", "twin", "least_squares")
    ]
    for more, less in pairwise(errors):
        assert (less <= more + 1e-9).all()
    assert errors[3].sum() < 0.7 * errors[2].sum() < 0.5 * errors[1].sum()


def test_the_best_single_channel_is_the_twin():
    x_CN, kept_C = sample(3), MASKS["some"]
    moments = moments_of(x_CN)
    found_R = error(x_CN, kept_C, COMPENSATIONS.bind("twin")(moments, kept_C))
    kept, removed = kept_C.nonzero().flatten(), (~kept_C).nonzero().flatten()
    for r, found in zip(removed.tolist(), found_R.tolist(), strict=True):
        corr = torch.corrcoef(x_CN)[r, kept]
        assert found == pytest.approx(float(moments.variance_C[r] * (1 - corr.square().max())))


def test_least_squares_by_hand():
    """Ordinary least squares with an intercept."""
    x_CN, kept_C = sample(4), MASKS["some"]
    design = torch.cat([x_CN[kept_C], torch.ones(1, 200).double()]).T
    solution = torch.linalg.lstsq(design, x_CN[~kept_C].T).solution.T
    mix = COMPENSATIONS.bind("least_squares", ridge=1e-12)(moments_of(x_CN), kept_C)
    assert torch.allclose(mix.weights_RK, solution[:, :-1], atol=1e-6)
    assert torch.allclose(mix.shift_R, solution[:, -1], atol=1e-6)
    with pytest.raises(ValueError, match="ridge=0"):
        COMPENSATIONS.bind("least_squares", ridge=0)(moments_of(x_CN), kept_C)


@pytest.mark.parametrize("name", sorted(COMPENSATIONS))
def test_card_is_filled_in(name):
    card = COMPENSATIONS[name]
    assert card.needs == (() if name == "none" else ("moment",))
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in card.function.__doc__
