"""Rules for operations that move elements or combine those of one tensor (see `tracing`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from compress.graph.calls import Call, rule_for
from compress.graph.partition import FIXED, folded


@rule_for("alias detach clone contiguous lift_fresh _to_copy hardswish native_dropout")
def _same(call: Call) -> None:
    call.label(call.labels(0))


@rule_for(
    "new_zeros new_ones new_empty new_full zeros_like ones_like empty_like full_like rand_like randn_like zero fill"
)
def _shape_alone(call: Call) -> None:
    """No value is taken over."""


@rule_for("as_strided")
def _same_shape(call: Call) -> None:
    labels = call.labels(0)
    if labels is not None and labels.shape == call.first.shape:
        call.label(labels)
    else:
        call.refuse("the operation as_strided")


@rule_for(
    "permute transpose t slice select squeeze unsqueeze expand index index_select gather flip repeat cat stack unfold "
    " pixel_shuffle pixel_unshuffle diagonal"
)
def _moved(call: Call) -> None:
    """Elements go elsewhere; so do their labels."""
    call.label(folded(call.function(*_as_labels(call, call.args), **_as_labels(call, call.kwargs))))


@rule_for("roll")
def _rolled(call: Call) -> None:
    """Places may go round; channels may not, because after a cut others stand beside each other."""
    labels = call.labels(0)
    if labels is not None:
        dims = call.argument("dims") or range(labels.ndim)
        if any(call.trace.sets.varies(labels, dim) for dim in dims):
            call.refuse("a roll of channels")
            return
    _moved(call)


def _as_labels(call: Call, arguments: Any) -> Any:
    """Return arguments with labels in the place of tensors; whole numbers (indices) stay."""

    def labels_of(leaf: Any) -> Any:
        labels = call.trace.labels(leaf)
        if labels is None and isinstance(leaf, Tensor) and leaf.is_floating_point():
            return torch.tensor(FIXED).expand(leaf.shape)
        leaf = leaf.cpu() if isinstance(leaf, Tensor) else leaf
        return leaf if labels is None else labels

    return tree_map(labels_of, arguments)


@rule_for("view _unsafe_view reshape _reshape_alias")
def _viewed(call: Call) -> None:
    """A view that splits channels into g groups of n: the same n must stay of each group.

    In an attention that keeps heads whole, it is the groups that stay or go, and nothing is joined.
    """
    labels, sets = call.labels(0), call.trace.sets
    assert labels is not None
    new = labels.reshape(call.first.shape)
    for old_dims, new_dims in _factors(labels.shape, new.shape):
        if len(new_dims) > 1 and not call.trace.keeps_heads and any(sets.varies(labels, d) for d in old_dims):
            changing = [d for d in new_dims if sets.varies(new, d)]
            for dim in changing[:-1]:
                sets.join(new, new.narrow(dim, 0, 1), "")
    call.label(folded(new))


def _factors(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which dimensions of `old` became which of `new`, in the smallest parts; lengths of 1 are left out.

    >>> _factors((2, 6, 1, 5), (2, 2, 3, 5))
    [([0], [0]), ([1], [1, 2]), ([3], [3])]
    """
    found = []
    olds, news = ([d for d, size in enumerate(shape) if size != 1] for shape in (old, new))
    while olds and news:
        own, other = [olds.pop(0)], [news.pop(0)]
        a, b = old[own[0]], new[other[0]]
        while a != b:
            if a < b:
                own.append(olds.pop(0))
                a *= old[own[-1]]
            else:
                other.append(news.pop(0))
                b *= new[other[-1]]
        found.append((own, other))
    return found


@rule_for("split split_with_sizes unbind")
def _split(call: Call) -> None:
    """Parts of equal length must lose the same; parts of given lengths nothing."""
    labels, sets = call.labels(0), call.trace.sets
    assert labels is not None
    dim = call.argument("dim", 0)
    parts = call.function(labels, *call.args[1:], **call.kwargs)
    if sets.varies(labels, dim) and not call.trace.keeps_heads:
        if len({part.shape for part in parts}) > 1:
            sets.mark(labels, f"a split into {', '.join(str(part.shape[dim]) for part in parts)}")
        else:
            for part in parts[1:]:
                sets.join(part, parts[0], "")
    for output, part in zip(call.output, parts, strict=True):
        call.trace.label(output, folded(part))


@rule_for("constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d")
def _padded(call: Call) -> None:
    labels, pad = call.labels(0), call.args[1]
    assert labels is not None
    for k in range(len(pad) // 2):
        dim = labels.ndim - 1 - k
        if pad[2 * k] or pad[2 * k + 1]:
            if call.trace.sets.varies(labels, dim):
                call.refuse("a padding of channels")
            labels = labels.narrow(dim, 0, 1)
    call.label(labels.expand(call.first.shape))


@rule_for(
    "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d "
    "adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d "
    "_upsample_nearest_exact2d "
    "upsample_linear1d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa"
)
def _in_space(call: Call) -> None:
    """Places are combined; channels, on the second dimension, are not."""
    labels = call.labels(0)
    assert labels is not None
    places = tuple(range(2, labels.ndim))
    call.label(call.trace.sets.join_along(labels, places, "").expand(call.first.shape))


@rule_for("mean sum amax amin prod var std norm linalg_vector_norm max min any all logsumexp var_mean std_mean")
def _reduced(call: Call) -> None:
    """What is combined stands or falls together."""
    labels, dims = call.labels(0), call.argument("dim", None) if _has_dim(call) else None
    assert labels is not None
    dims = [dims] if isinstance(dims, int) else dims or list(range(labels.ndim))
    dims = tuple(dim % labels.ndim for dim in dims)
    labels = call.trace.sets.join_along(labels, dims, call.name)
    outputs = [call.output] if isinstance(call.output, Tensor) else call.output
    for output in outputs:
        if output.is_floating_point():
            call.trace.label(output, labels if output.ndim == labels.ndim else labels.squeeze(dims))


def _has_dim(call: Call) -> bool:
    return any(argument.name == "dim" for argument in call.function._schema.arguments)


@rule_for("_softmax _log_softmax cumsum")
def _softmax(call: Call) -> None:
    labels = call.labels(0)
    assert labels is not None
    dim = call.argument("dim") % labels.ndim
    call.label(call.trace.sets.join_along(labels, (dim,), call.name).expand(call.first.shape))
