"""One operation as the rules for labels see it, and the table of rules (see `tracing`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from compress.graph.tracing import Trace


@dataclass(frozen=True)
class Call:
    """One operation that was run.

    Attributes:
        trace: Where labels are kept.
        function: What was called.
        args: With what.
        kwargs: With what else.
        output: What came out.
    """

    trace: Trace
    function: Any
    args: Sequence[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    output: Any = None

    @property
    def name(self) -> str:
        """Name in ATen, without the underscore of operations in place."""
        return str(self.function.overloadpacket.__name__).rstrip("_")

    @property
    def first(self) -> Tensor:
        """The output, or the first of several."""
        return self.output if isinstance(self.output, Tensor) else self.output[0]

    def labels(self, position: int) -> Tensor | None:
        """Return the labels of an argument."""
        return self.trace.labels(self.args[position]) if position < len(self.args) else None

    def argument(self, name: str, default: Any = None) -> Any:
        """Return an argument by its name in ATen."""
        names = [argument.name for argument in self.function._schema.arguments]
        position = names.index(name)
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)

    def label(self, labels: Tensor | None) -> None:
        """Label the output."""
        self.trace.label(self.first, labels)

    def refuse(self, what: str) -> None:
        """Note that whatever comes in cannot be cut."""
        for leaf in tree_leaves((self.args, self.kwargs)):
            if (labels := self.trace.labels(leaf)) is not None:
                self.trace.sets.mark(labels, what)


Rule = Callable[[Call], None]
#: By name in ATen; operations without one are obstacles.
RULES: dict[str, Rule] = {}
#: By function, for those whose weights cannot be recognised in ATen.
FUNCTIONS: dict[Any, Rule] = {}


def rule_for(names: str) -> Callable[[Rule], Rule]:
    """Make the decorated function the rule for operations with these names."""

    def decorate(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), rule))
        return rule

    return decorate
