"""Rules for operations that combine tensors, and for layers (see `tracing`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from compress.graph.calls import FUNCTIONS, Call, rule_for
from compress.graph.slicers import is_depthwise
from compress.graph.tracing import Trace


def pointwise(call: Call) -> None:
    """Join what meets element by element."""
    tensors = [leaf for leaf in tree_leaves((call.args, call.kwargs)) if isinstance(leaf, Tensor)]
    found = _met(call.trace, [(tensor.shape, call.trace.labels(tensor)) for tensor in tensors], call.first.shape)
    call.label(found)


def _met(trace: Trace, operands: Sequence[tuple[Sequence[int], Tensor | None]], shape: torch.Size) -> Tensor | None:
    """Return the labels of what comes of tensors that meet element by element.

    What is stretched along the others' channels has nothing to do with them, but must itself stay. What is not
    stretched and has no channels keeps those that it meets from being cut.

    Args:
        trace: Where numbers are joined.
        operands: Shape and labels of each.
        shape: Shape after broadcasting.
    """
    sets, found = trace.sets, None
    known = [labels.expand(shape) for _, labels in operands if labels is not None]
    changing = [[d for d in range(len(shape)) if sets.varies(labels, d)] for labels in known]
    channel_dims = {d for dims in changing for d in dims}
    position = 0
    for size, labels in operands:
        padded = [1] * (len(shape) - len(size)) + list(size)
        is_stretched = all(padded[d] == 1 for d in channel_dims)
        if labels is None:
            continue
        whole, dims = known[position], changing[position]
        position += 1
        if channel_dims and not dims and is_stretched:
            sets.mark(labels, "a product with other channels")
            continue
        if found is not None:
            sets.join(found, whole, "")
        found = whole if found is None or len(dims) == len(channel_dims) else found
    for size, labels in operands:
        padded = [1] * (len(shape) - len(size)) + list(size)
        if labels is None and found is not None and any(padded[d] > 1 for d in channel_dims):
            sets.mark(found, f"a tensor of shape {tuple(size)} that stays whole")
    return found


@rule_for("mm bmm")
def _multiplied(call: Call) -> None:
    shapes = [tuple(tensor.shape) for tensor in call.args[:2]]
    call.label(_contracted(call.trace, call.labels(0), call.labels(1), shapes, call.first.shape))


@rule_for("addmm baddbmm")
def _multiplied_and_added(call: Call) -> None:
    shapes, shape = [tuple(tensor.shape) for tensor in call.args[1:3]], call.first.shape
    product = _contracted(call.trace, call.labels(1), call.labels(2), shapes, shape)
    call.label(_met(call.trace, [(shape, product), (call.args[0].shape, call.labels(0))], shape))


def _contracted(
    trace: Trace, a: Tensor | None, b: Tensor | None, shapes: Sequence[tuple[int, ...]], shape: torch.Size
) -> Tensor | None:
    """Return the labels of a matrix product of (…, I, K) and (…, K, J): what is summed over is joined."""
    a = None if a is None else trace.sets.join_along(a, (a.ndim - 1,), "a product of matrices")
    b = None if b is None else trace.sets.join_along(b, (b.ndim - 2,), "a product of matrices")
    a_shape, b_shape = (*shapes[0][:-1], 1), (*shapes[1][:-2], 1, shapes[1][-1])
    return _met(trace, [(a_shape, a), (b_shape, b)], shape)


@rule_for("convolution")
def _convolution(call: Call) -> None:
    path, labels = call.trace.owner(call.args[1]), call.labels(0)
    if path is None:
        call.refuse("a convolution whose weights are computed")
        return
    is_read = not is_depthwise(call.trace.module.get_submodule(path))
    call.trace.read(path, "in" if is_read else "out", labels, 1)
    call.trace.give(call.first, path, 1, is_made=is_read)


@rule_for("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm")
def _batch_norm(call: Call) -> None:
    _normalized(call, call.trace.owner(call.args[1], call.args[3]), 1)


@rule_for("native_layer_norm")
def _layer_norm(call: Call) -> None:
    _normalized(call, call.trace.owner(call.args[2]) if len(call.args[1]) == 1 else None, call.first.ndim - 1)


@rule_for("native_group_norm")
def _group_norm(call: Call) -> None:
    _normalized(call, call.trace.owner(call.args[1]), 1)


def _normalized(call: Call, path: str | None, dim: int) -> None:
    if path is None:
        call.refuse(f"the operation {call.name}")
    else:
        call.trace.read(path, "out", call.labels(0), dim)
        call.trace.give(call.first, path, dim)


def _linear(call: Call) -> None:
    """A linear layer reads the last dimension.

    One that mixes places does not mix channels, which lie on another dimension; but how often it is applied depends
    on their number, and costs are products of two numbers of channels at most. So they stay.
    """
    x, weight, bias = (*call.args, call.kwargs.get("weight"), call.kwargs.get("bias"))[:3]
    bias = call.kwargs.get("bias") if bias is None else bias
    trace, sets, labels, last = call.trace, call.trace.sets, call.trace.labels(x), x.ndim - 1
    axes = trace.axes_of(weight)
    if axes is None:
        call.refuse("a linear layer whose weights are computed")
        return
    path, out, in_ = axes
    if labels is not None and not sets.varies(labels, last) and any(sets.varies(labels, d) for d in range(last)):
        for seen in (trace.slot(path, out), trace.slot(path, in_), labels):
            sets.mark(seen, f"{path}, which mixes places")
        call.label(labels.narrow(last, 0, 1).expand(call.first.shape))
        return
    trace.read(path, in_, labels, last)
    trace.give(call.first, path, last, out, is_made=True)
    if isinstance(bias, nn.Parameter) and out != "out" and (own := trace.axes_of(bias)) is not None:
        sets.join(trace.slot(path, out), trace.slot(own[0], own[1]), "")
    elif not isinstance(bias, nn.Parameter) and (added := trace.labels(bias)) is not None:
        sets.join(trace.slot(path, out), added, f"{path}, part of whose bias is computed")


def _prelu(call: Call) -> None:
    x, weight = call.args
    path = call.trace.owner(weight)
    if path is None:
        call.refuse("a PReLU whose weights are computed")
    elif weight.numel() == 1:
        call.label(call.trace.labels(x))
    elif call.trace.labels(x) is not None:
        call.trace.read(path, "out", call.trace.labels(x), 1)
        call.trace.give(call.first, path, 1)


def _attention(call: Call) -> None:
    """softmax(q kᵀ + mask) v: what one head consists of stands or falls together."""
    q, k, v = call.args[:3]
    mask = call.args[3] if len(call.args) > 3 else call.kwargs.get("attn_mask")
    trace = call.trace
    found = [trace.labels(x) for x in (q, k, v)]
    k_KT = None if found[1] is None else found[1].transpose(-1, -2)
    shape = torch.Size((*q.shape[:-1], k.shape[-2]))
    scores = _contracted(trace, found[0], k_KT, [tuple(q.shape), tuple(k.transpose(-1, -2).shape)], shape)
    if mask is not None:
        scores = _met(trace, [(shape, scores), (mask.shape, trace.labels(mask))], shape)
    call.label(_contracted(trace, scores, found[2], [tuple(shape), tuple(v.shape)], call.first.shape))


def _opaque(call: Call) -> None:
    call.refuse(f"the function {call.function.__name__}")


@rule_for("copy")
def _copied(call: Call) -> None:
    if call.labels(0) is None:
        call.refuse("a copy into part of a tensor")
    else:
        pointwise(call)


FUNCTIONS |= {
    functional.linear: _linear,
    torch.prelu: _prelu,
    functional.scaled_dot_product_attention: _attention,
    functional.multi_head_attention_forward: _opaque,
}
