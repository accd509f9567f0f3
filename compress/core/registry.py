"""Families of pieces: named, interchangeable functions whose signature is their schema.

A *piece* is one idea as one function. Positional arguments are the data that a family hands
over; keyword-only arguments are the options that a user may set, all with defaults. Help texts,
JSON arguments of components and `docs/ideas.md` are read from the card, so that a new piece
changes nothing outside its own file.
"""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, get_type_hints

F = TypeVar("F", bound=Callable[..., Any])

#: Every family by name, in the order in which their modules were imported.
FAMILIES: dict[str, Family[Any]] = {}


class UnknownName(ValueError):
    """A name that nobody registered. The message offers the nearest one."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """Build the error for `name`, which is not one of `known`."""
        names = sorted(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


@dataclass(frozen=True, kw_only=True)
class Option:
    """One keyword-only argument of a piece: its name, default and type."""

    name: str
    default: Any
    annotation: Any

    def parse(self, value: Any, owner: str) -> Any:
        """Return `value` as this option's type, or raise ValueError that names the option."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(self.annotation).validate_python(value)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise ValueError(f"option {self.name!r} of {owner}: {reason}; got {value!r}.") from error


@dataclass(frozen=True, kw_only=True)
class Card(Generic[F]):
    """What is known of a piece without running it."""

    name: str
    family: str
    function: F
    summary: str
    options: Mapping[str, Option]
    paper: str = ""
    idea: str = ""
    study: str = ""
    suffix: str = ""
    needs: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Piece(Generic[F]):
    """A card with its options set; call it with the family's data."""

    def __init__(self, card: Card[F], options: Mapping[str, Any]) -> None:
        self.card = card
        self.options = dict(options)

    @property
    def name(self) -> str:
        """The registered name."""
        return self.card.name

    def __call__(self, *data: Any, **more: Any) -> Any:
        """Call the function with the family's data; `more` wins over the options that are set."""
        return self.card.function(*data, **self.options, **more)

    def as_json(self) -> dict[str, Any]:
        """Name and non-default options: what identifies this piece and goes into a record."""
        return {"name": self.name, **self.options}

    def __repr__(self) -> str:
        return json.dumps(self.as_json(), sort_keys=True, default=str)


class Family(Generic[F]):
    """A set of pieces that can stand in for each other.

    Args:
        name: One fixed word, singular ("criterion").
        data: Names of the positional arguments that every piece of the family takes, in order.
    """

    def __init__(self, name: str, *, data: tuple[str, ...]) -> None:
        assert name not in FAMILIES, f"family {name!r} exists already"
        self.name = name
        self.data = data
        self._cards: dict[str, Card[F]] = {}
        FAMILIES[name] = self

    def register(
        self,
        name: str,
        *,
        paper: str = "",
        needs: tuple[str, ...] = (),
        idea: str = "",
        study: str = "",
        suffix: str = "",
        **extra: Any,
    ) -> Callable[[F], F]:
        """Register the decorated function as the piece `name`.

        Args:
            name: What users type; lower case.
            paper: First author and year of the source, empty for plain engineering.
            needs: What the piece reads besides its arguments (statistics of a group, say).
            idea: Row of the ideas list that this piece makes runnable ("C9").
            study: Number of the study that judges it.
            suffix: Option that `name:REST` sets, for pieces that stand for many ("torchvision:resnet18").
            extra: Whatever else the family wants to know of its pieces.
        """

        def decorate(function: F) -> F:
            assert name not in self._cards, f"{self.name} {name!r} is registered twice"
            self._cards[name] = Card(
                name=name,
                family=self.name,
                function=function,
                summary=_summary(function),
                options=_options(function, self.data),
                paper=paper,
                idea=idea,
                study=study,
                suffix=suffix,
                needs=needs,
                extra=extra,
            )
            return function

        return decorate

    def bind(self, name: str, **options: Any) -> Piece[F]:
        """Return the piece `name` with `options` checked and set.

        Raises:
            UnknownName: For a misspelt piece or option; says the nearest one.
            ValueError: For a value of the wrong type.
        """
        name, _, rest = name.partition(":")
        card = self[name]
        if rest:
            if not card.suffix:
                raise ValueError(f"{self.name} {name!r} takes nothing behind a colon; got {rest!r}.")
            options = {card.suffix: rest, **options}
        parsed = {}
        for key, value in options.items():
            if key not in card.options:
                raise UnknownName.among(f"option of {self.name} {name!r}:", key, card.options)
            value = card.options[key].parse(value, f"{self.name} {name!r}")
            if value != card.options[key].default:
                parsed[key] = value
        return Piece(card, dict(sorted(parsed.items())))

    def from_json(self, spec: str | Mapping[str, Any] | Piece[F]) -> Piece[F]:
        """Bind from `"taylor"`, `{"name": "taylor", "square": true}`, that as text, or a piece."""
        if isinstance(spec, Piece):
            return spec
        if isinstance(spec, str):
            if not spec.lstrip().startswith("{"):
                return self.bind(spec)
            try:
                spec = json.loads(spec)
            except json.JSONDecodeError as error:
                raise ValueError(f"{self.name} {spec!r} is not valid JSON: {error}.") from error
        if not isinstance(spec, Mapping):
            raise ValueError(f'a {self.name} is a name or {{"name": …}}; got {spec!r}.')
        if "name" not in spec:
            raise ValueError(f'a {self.name} needs a "name"; got {dict(spec)!r}.')
        return self.bind(**{str(key): value for key, value in spec.items()})

    def __getitem__(self, name: str) -> Card[F]:
        if name not in self._cards:
            raise UnknownName.among(self.name, name, self._cards)
        return self._cards[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cards)

    def __contains__(self, name: object) -> bool:
        return name in self._cards

    def __len__(self) -> int:
        return len(self._cards)


def _summary(function: Callable[..., Any]) -> str:
    line = (inspect.getdoc(function) or "").partition("\n")[0].strip()
    assert line.endswith("."), (
        f"{function.__qualname__}: the docstring's first line must be a sentence with a full stop"
    )
    return line


def _options(function: Callable[..., Any], data: tuple[str, ...]) -> dict[str, Option]:
    positional, options = [], {}
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            assert parameter.default is not parameter.empty, f"{function.__qualname__}: option {name!r} needs a default"
            options[name] = Option(name=name, default=parameter.default, annotation=hints.get(name, Any))
        else:
            positional.append(name)
    assert tuple(positional) == data, f"{function.__qualname__} takes {positional}, its family hands over {list(data)}"
    return options
