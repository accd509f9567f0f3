"""Which names of TensorRT a set of source files uses: found by following the module and its objects through them.

Values are followed through assignments, attributes of self, returns and calls between the functions of the files. What
a call of TensorRT returns is taken from the surface of the bindings, so that methods of those objects are found too.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODULE = ("module", "")
#: (kind, class): kind is module, class, instance, or method with "Class.method".
Kind = tuple[str, str]
#: Calls that return the module.
SOURCES = ("require_tensorrt", "import_module")
#: Values travel at most through so many functions.
PASSES = 6


@dataclass(frozen=True, order=True)
class Use:
    """One use of a name of TensorRT.

    Attributes:
        name: Dotted, without the module: "Builder", "IBuilderConfig.set_flag".
        how: read, set or call.
        positional: Arguments by position of a call.
        keywords: Names of the others.
        place: File and line.
    """

    name: str
    how: str
    positional: int = 0
    keywords: tuple[str, ...] = ()
    place: str = field(default="", compare=False)


@dataclass
class Walk:
    """Follows values through functions.

    Attributes:
        surface: What the bindings offer.
        chosen: Names that `getattr` may pick of a class of the module, by class.
        uses: What was found.
    """

    surface: Mapping[str, Any]
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)
    uses: set[Use] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._known: dict[tuple[str, str], Kind] = {}
        self._functions: dict[str, ast.FunctionDef] = {}
        self._scope = self._class = self._file = ""

    def files(self, paths: Sequence[Path]) -> set[Use]:
        """Return the uses in all files together."""
        trees = {path: ast.parse(path.read_text()) for path in paths}
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    self._functions[node.name] = node
                if isinstance(node, ast.ClassDef):
                    for item in node.body:
                        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                            self._functions[node.name] = item
        for _ in range(PASSES):
            self.uses = set()
            for path, tree in trees.items():
                self._file = path.name
                self._visit(tree)
        return self.uses

    def _visit(self, node: ast.AST) -> None:
        outside = (self._scope, self._class)
        if isinstance(node, ast.ClassDef):
            self._class = node.name
        if isinstance(node, ast.FunctionDef):
            self._scope = f"{self._class}.{node.name}" if node.name == "__init__" else node.name
        for child in ast.iter_child_nodes(node):
            self._visit(child)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._assign(target, self._kind(node.value))
        elif isinstance(node, ast.Return) and node.value is not None:
            self._learn(("", self._scope), self._kind(node.value))
        elif isinstance(node, ast.expr) and not isinstance(getattr(node, "ctx", None), ast.Store):
            self._kind(node)
        self._scope, self._class = outside

    def _learn(self, place: tuple[str, str], kind: Kind | None) -> None:
        if kind is not None:
            self._known[place] = kind

    def _assign(self, target: ast.expr, kind: Kind | None) -> None:
        if isinstance(target, ast.Name):
            self._learn((self._scope, target.id), kind)
        elif isinstance(target, ast.Attribute):
            if isinstance(target.value, ast.Name) and target.value.id == "self":
                self._learn((self._class, f"self.{target.attr}"), kind)
            elif owner := self._kind(target.value):
                self._use(f"{owner[1]}.{target.attr}", "set", target)

    def _use(self, name: str, how: str, node: ast.expr, call: ast.Call | None = None) -> None:
        place = f"{self._file}:{node.lineno}"
        keywords = tuple(sorted(word.arg for word in call.keywords if word.arg)) if call else ()
        positional = sum(1 + self._starred(argument) for argument in call.args) if call else 0
        self.uses.add(Use(name, how, positional, keywords, place))

    def _starred(self, argument: ast.expr) -> int:
        """Return how many arguments more than one a generator over a tuple passes."""
        if not isinstance(argument, ast.Starred):
            return 0
        if isinstance(argument.value, ast.GeneratorExp) and isinstance(argument.value.generators[0].iter, ast.Tuple):
            return len(argument.value.generators[0].iter.elts) - 1
        raise AssertionError(f"{self._file}:{argument.lineno}: write the arguments of TensorRT's calls one by one.")

    def _kind(self, node: ast.expr) -> Kind | None:
        if isinstance(node, ast.Name):
            return MODULE if node.id == "trt" else self._known.get((self._scope, node.id))
        if isinstance(node, ast.BoolOp):
            return next((kind for value in node.values if (kind := self._kind(value))), None)
        if isinstance(node, ast.NamedExpr):
            self._assign(node.target, kind := self._kind(node.value))
            return kind
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        return self._call(node) if isinstance(node, ast.Call) else None

    def _attribute(self, node: ast.Attribute) -> Kind | None:
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return self._known.get((self._class, f"self.{node.attr}"))
        if (owner := self._kind(node.value)) is None:
            return None
        kind, name = owner
        if kind == "module":
            self._use(node.attr, "read", node)
            return ("class", node.attr) if node.attr in self.surface["classes"] else None
        if kind == "method":
            raise AssertionError(f"{self._file}:{node.lineno}: {name}.{node.attr} of a method of TensorRT")
        self._use(f"{name}.{node.attr}", "read", node)
        member = self.surface["classes"].get(name, {"members": {}})["members"].get(node.attr, {"kind": "none"})
        if member["kind"] == "method":
            return ("method", f"{name}.{node.attr}")
        return self._instance(member.get("returns", ""))

    def _call(self, node: ast.Call) -> Kind | None:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            owner = self._kind(node.args[0])
            if owner is not None and owner != MODULE:
                for name in self.chosen[owner[1]]:
                    self._use(f"{owner[1]}.{name}", "read", node)
            return None
        if (called := self._kind(node.func)) is not None:
            kind, name = called
            self._use(name, "call", node, node)
            if kind == "class":
                return ("instance", name)
            owner, _, method = name.partition(".")
            overloads = self.surface["classes"][owner]["members"][method]["overloads"]
            return self._instance(overloads[0]["returns"] if overloads else "")
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in SOURCES:
            return MODULE
        self._pass_on(name, node)
        return self._known.get(("", name))

    def _instance(self, name: str) -> Kind | None:
        return ("instance", name) if name in self.surface["classes"] else None

    def _pass_on(self, name: str, call: ast.Call) -> None:
        """Tell a function of the files what it is called with."""
        if (function := self._functions.get(name)) is None:
            return
        scope = f"{name}.__init__" if function.name == "__init__" else name
        names = [argument.arg for argument in function.args.args if argument.arg != "self"]
        for parameter, value in zip(names, call.args, strict=False):
            self._learn((scope, parameter), self._kind(value))
        for word in call.keywords:
            if word.arg:
                self._learn((scope, word.arg), self._kind(word.value))


def objections(use: Use, surface: Mapping[str, Any]) -> str:
    """Return what is wrong with a use for the bindings of one version, or an empty string."""
    owner, _, name = use.name.rpartition(".")
    if not owner:
        if name not in surface["names"]:
            return f"{use.place}: TensorRT {surface['version']} has no {name}"
        overloads = surface["classes"][name]["init"] if use.how == "call" else []
        return _arguments(use, overloads, surface["version"])
    member = surface["classes"].get(owner, {"members": {}})["members"].get(name)
    if member is None:
        return f"{use.place}: TensorRT {surface['version']} has no {use.name}"
    if use.how == "set" and not member.get("is_settable"):
        return f"{use.place}: {use.name} cannot be set in TensorRT {surface['version']}"
    return _arguments(use, member["overloads"], surface["version"]) if use.how == "call" else ""


def _arguments(use: Use, overloads: Sequence[Mapping[str, Any]], version: str) -> str:
    if use.how != "call" or any(_fits(use, overload["parameters"]) for overload in overloads):
        return ""
    known = "; ".join(", ".join(one["name"] for one in overload["parameters"]) for overload in overloads)
    return f"{use.place}: {use.name} of TensorRT {version} takes ({known}), not {use.positional} and {use.keywords}"


def _fits(use: Use, parameters: Sequence[Mapping[str, Any]]) -> bool:
    names = [parameter["name"] for parameter in parameters]
    given = {*names[: use.positional], *use.keywords}
    needed = {parameter["name"] for parameter in parameters if not parameter["is_optional"]}
    return use.positional <= len(names) and set(use.keywords) <= set(names[use.positional :]) and needed <= given
