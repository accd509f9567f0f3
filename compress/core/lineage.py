"""Lineage: every decision that shaped a model, enough to rebuild it without deciding again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compress.core.registry import Family

if TYPE_CHECKING:
    from torch import nn

#: (shape, num_classes) -> nn.Module with logits as output. Registered by the modules of `compress.models`.
BUILDERS: Family[Callable[..., nn.Module]] = Family("builder", data=("shape", "num_classes"))

#: (module, plan JSON) -> a new nn.Module. Registered by `compress.graph.surgery`
#: and `compress.graph.conversion` alone.
PLAN_KINDS: Family[Callable[..., nn.Module]] = Family("plan", data=("module", "plan"))


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one stage did.

    Attributes:
        stage: The stage's name.
        config: Its non-default configuration.
        plan: How the structure changed ({"kind": …, …}), or None when only weights did.
    """

    stage: str
    config: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """A builder and the steps since.

    Attributes:
        builder: The builder's piece as JSON.
        shape: (channels, height, width) that the builder was called with.
        num_classes: Number of outputs that the builder was called with.
        steps: In the order in which they happened.
    """

    builder: Mapping[str, Any]
    shape: tuple[int, int, int]
    num_classes: int
    steps: tuple[Step, ...] = ()

    def then(self, step: Step) -> Lineage:
        """Return this lineage with one more step."""
        return replace(self, steps=(*self.steps, step))

    def as_json(self) -> dict[str, Any]:
        """JSON with what `from_json` needs."""
        return {
            "builder": dict(self.builder),
            "shape": list(self.shape),
            "num_classes": self.num_classes,
            "steps": [{"stage": s.stage, "config": dict(s.config), "plan": s.plan} for s in self.steps],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Lineage:
        """Read what `as_json` wrote."""
        channels, height, width = data["shape"]
        return cls(
            builder=data["builder"],
            shape=(int(channels), int(height), int(width)),
            num_classes=int(data["num_classes"]),
            steps=tuple(Step(stage=s["stage"], config=s["config"], plan=s["plan"]) for s in data["steps"]),
        )


def rebuild(lineage: Lineage) -> nn.Module:
    """Return the module that `lineage` describes, with the builder's initial weights.

    Replays plans; never searches, never measures.
    """
    module = BUILDERS.from_json(lineage.builder)(lineage.shape, lineage.num_classes)
    for step in lineage.steps:
        if step.plan is not None:
            module = PLAN_KINDS.bind(step.plan["kind"])(module, step.plan)
    return module
