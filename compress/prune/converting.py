"""The convolutions of a network offered to a conversion; those that are not faster afterwards are refused.

Layers of one shape are offered together, because they take the same time, and are measured inside the whole network:
a layer on its own pays for changes of memory layout that its neighbours would have spared it, or cause.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import nn

from compress.core.journal import Journal
from compress.core.model import Model
from compress.core.registry import Piece
from compress.core.stage import Entry
from compress.graph.conversion import cheaper, convert_with, convolutions
from compress.graph.renaming import group_on, renamed
from compress.graph.units import Axis, ChannelGroup
from compress.measure.paired import Ratio
from compress.measure.runtimes import paired_sessions
from compress.prune.conversions.family import Converted, Merged, NotConvertible, Site
from compress.prune.conversions.sites import quiet_groups, shape_classes, site_at
from compress.prune.fading import advance, fade, settled
from compress.prune.merging import merge
from compress.prune.trials import digest_of
from compress.train.folding import norm_after

#: How often a measurement that leaves it open which network is faster is repeated with twice the rounds.
NUM_DOUBLINGS = 2

#: (model, share of the fine-tuning, what to call in every step with the module and the progress in [0, 1]) -> model.
TrainFading = Callable[[Model, float, Callable[[nn.Module, float], None]], Model]


@dataclass(frozen=True)
class Referee:
    """Says how much faster one network is than another.

    Attributes:
        runtime: Piece of RUNTIMES in which both run.
        batch: Inputs a call.
        rounds: Interleaved samples of each, at first.
        seed: Of their order.
        journal: Holds what was measured before, so that work that is started again decides as it did; None measures
            whenever it is asked.
    """

    runtime: Piece[Any]
    batch: int = 1
    rounds: int = 40
    seed: int = 0
    journal: Journal | None = None

    def ratio(self, numerator: Model, denominator: Model) -> Ratio:
        """Return how many times longer `numerator` takes than `denominator`, from the journal when it has that."""
        if self.journal is None:
            return self._measured(numerator, denominator)
        how = json.dumps(self.as_json(), sort_keys=True)
        key = f"{_network_key(numerator)}/{_network_key(denominator)} {how}"
        return Ratio(**self.journal.get("referee", key, lambda: self._measured(numerator, denominator).as_json()))

    def _measured(self, numerator: Model, denominator: Model) -> Ratio:
        """Return the ratio of times in turns; measured longer while 1 is possible."""
        x_BCHW = numerator.input.example(self.batch).numpy().astype(np.float32)
        with ExitStack() as stack:
            models = {"numerator": numerator, "denominator": denominator}
            sessions = {name: stack.enter_context(self.runtime(Entry.of(one, name))) for name, one in models.items()}
            for doubling in range(NUM_DOUBLINGS + 1):
                times = paired_sessions(sessions, x_BCHW, rounds=self.rounds << doubling, seed=self.seed)
                ratio = times.ratio("numerator", "denominator")
                if not ratio.low < 1 <= ratio.high:
                    break
        return ratio

    def as_json(self) -> dict[str, Any]:
        """Return how it measures."""
        return {"runtime": self.runtime.as_json(), "batch": self.batch, "rounds": self.rounds}


def convert(
    model: Model,
    conversion: Piece[Any],
    *,
    referee: Referee | None,
    train: TrainFading | None = None,
    share: float = 1.0,
    stage: str = "prune",
    config: Mapping[str, Any] | None = None,
) -> tuple[Model, dict[str, Any]]:
    """Make the convolutions of a network cheaper where that makes it faster.

    Args:
        model: Not changed. Batch-norm statistics of the result are the old ones: recalibrate them.
        conversion: Piece of CONVERSIONS.
        referee: Who measures; None converts whatever has fewer weights afterwards.
        train: Trains a copy while the old layers fade (`fading.advance`), or None to replace them at once. It must
            keep the weights of the last step, not of the best epoch: early epochs have hardly faded. It is called
            even if nothing fades, so that the steps come out the same.
        share: Part of the fine-tuning that `train` gets.
        stage: Who asks.
        config: Its configuration, for the lineage.

    Returns:
        The model, which is `model` itself when nothing was converted or trained, and a report: by layer its shape,
        what it became, the kept energy, whether it stays so, the ratio of times with its interval, and the reason for
        a refusal.
    """
    step: dict[str, Any] = {"stage": stage, "config": dict(config or {})}
    rows: dict[str, dict[str, Any]] = {}
    draft = _Draft.of(model, step)
    for shape, paths in shape_classes(model.module, model.input.example(1)).items():
        draft, found = _offered(draft, shape, paths, conversion, referee)
        rows.update(found)
    speedup, num_converted = None, sum(row["is_converted"] for row in rows.values())
    if referee and num_converted:
        speedup = referee.ratio(model, draft.realised())
        if speedup.low <= 1:
            draft, num_converted = _Draft.of(model, step), 0
            _refuse_all(rows, speedup)
    result = draft.realised()
    if train is not None:
        trained = train(fade(draft.model, draft.chosen), share, advance)
        result = settled(trained, **step) if draft.chosen else trained
    report = {"layers": rows, "num_converted": num_converted, "speedup": speedup.as_json() if speedup else None}
    return result, report | ({"referee": referee.as_json()} if referee else {})


def _refuse_all(rows: Mapping[str, dict[str, Any]], speedup: Ratio) -> None:
    """Note that all layers together are not faster, although each shape was."""
    for row in rows.values():
        if row["is_converted"]:
            row["is_converted"] = False
            row["reason"] = (
                f"not faster: with all conversions the network is {speedup.value:.3f} times as fast "
                f"({speedup.low:.3f} to {speedup.high:.3f})"
            )


@dataclass(frozen=True)
class _Draft:
    """A network on its way: layers are chosen but still dense, channels renamed or merged already.

    Attributes:
        model: The dense network.
        step: Stage and configuration for the lineage.
        groups: Its groups of channels.
        norms: The batch norm that alone follows a layer, by path.
        chosen: What layers become.
        used: Groups whose order is settled.
    """

    model: Model
    step: Mapping[str, Any]
    groups: tuple[ChannelGroup, ...]
    norms: Mapping[str, str]
    chosen: Mapping[str, Converted] = field(default_factory=dict)
    used: frozenset[str] = frozenset()

    @classmethod
    def of(cls, model: Model, step: Mapping[str, Any]) -> _Draft:
        """Look at a network."""
        return cls(model, step, quiet_groups(model.module, model.input.example()), norm_after(model.module))

    def realised(self) -> Model:
        """Return the network with the chosen layers converted."""
        layers = {path: (choice.target, choice.layer) for path, choice in self.chosen.items()}
        return convert_with(self.model, layers, **self.step) if layers else self.model


def _offered(
    draft: _Draft, shape: str, paths: Sequence[str], conversion: Piece[Any], referee: Referee | None
) -> tuple[_Draft, dict[str, dict[str, Any]]]:
    """Offer the layers of one shape; return the draft with all that change, or without any, and their rows."""
    rows: dict[str, dict[str, Any]] = {}
    after, changed = draft, []
    for path in paths:
        rows[path] = {
            "shape": shape,
            "to": None,
            "kept_energy": 1.0,
            "is_converted": False,
            "ratio": None,
            "reason": "",
        }
        try:
            after, more = _with_layer(after, path, conversion)
            rows[path] |= more
            changed.append(path)
        except NotConvertible as refusal:
            rows[path]["reason"] = str(refusal)
    if not changed:
        return draft, rows
    ratio = referee.ratio(after.realised(), draft.realised()) if referee else None
    is_faster = ratio is None or ratio.high < 1
    for path in changed:
        rows[path] |= {"is_converted": is_faster, "ratio": ratio.as_json() if ratio else None}
        if ratio and not is_faster:
            rows[path]["reason"] = (
                f"not faster: the network with the {len(changed)} converted layers of this shape takes "
                f"{ratio.value:.3f} times as long ({ratio.low:.3f} to {ratio.high:.3f})"
            )
    return (after if is_faster else draft), rows


def _with_layer(draft: _Draft, path: str, conversion: Piece[Any]) -> tuple[_Draft, dict[str, Any]]:
    """Return the draft with one layer more converted, and what to report; NotConvertible when there is no change."""
    module = draft.model.module
    site = site_at(module, path, draft.groups, draft.norms, draft.used)
    found = conversion(site)
    if not found.is_change:
        raise NotConvertible("nothing to convert")
    if isinstance(found, Merged):
        group = next(group for group in draft.groups if group.name == path)
        model = merge(draft.model, group, found, draft.norms, **draft.step)
        kept = f"{group.num_channels - len(found.twins)} of {group.num_channels} channels"
        return _Draft.of(model, draft.step), {"to": {"to": "merged", "kept": kept}, "kept_energy": found.kept_energy}
    old_count, new_count = (_num_weights(layer) for layer in (module.get_submodule(path), found.layer))
    if new_count >= old_count:
        raise NotConvertible(f"it would have {new_count:,} weights instead of {old_count:,}")
    model, found = _orders_folded(draft, path, site, found)
    axes: tuple[Axis, ...] = ("in", "out")
    settled_now = {one[0].name for axis in axes if (one := group_on(draft.groups, path, axis))}
    after = replace(draft, model=model, chosen={**draft.chosen, path: found}, used=draft.used | settled_now)
    return after, {"to": dict(found.target), "kept_energy": found.kept_energy}


def _orders_folded(draft: _Draft, path: str, site: Site, found: Converted) -> tuple[Model, Converted]:
    """Rename free channels so that the new layer needs no order on their axis."""
    target, module = dict(found.target), draft.model.module
    keys: dict[Axis, str] = {"in": "in_order", "out": "out_order"}
    for axis, key in keys.items():
        one = group_on(draft.groups, path, axis)
        if axis not in site.free_axes or key not in target or one is None:
            continue
        group, member = one
        source = target.pop(key)
        comes_from = source if axis == "in" else sorted(range(len(source)), key=source.__getitem__)
        channel_at = {index[0]: channel for channel, index in enumerate(member.index)}
        module = renamed(module, group, [channel_at[comes_from[index[0]]] for index in member.index])
    if target == found.target:
        return draft.model, found
    new = cheaper(site.layer, target)
    for mine, given in zip(convolutions(new), convolutions(found.layer), strict=True):
        mine.load_state_dict(given.state_dict())
    return Model(module, draft.model.input, draft.model.lineage), replace(found, target=target, layer=new)


def _network_key(model: Model) -> str:
    """Return digits that tell a network from any other; an order of channels has no weights, but a place in a plan."""
    plans = json.dumps(model.lineage.as_json(), sort_keys=True)
    return f"{digest_of(model)}-{hashlib.sha256(plans.encode()).hexdigest()[:16]}"


def _num_weights(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())
