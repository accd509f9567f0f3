import pytest

from compress.core.registry import FAMILIES, Family, Piece, UnknownName


@pytest.fixture
def family():
    made = Family("proof", data=("number",))

    @made.register("scale", paper="Nobody 2026", idea="Z1", suffix="label")
    def scale(number: float, *, factor: float = 2.0, label: str = "") -> float:
        """Multiply by a factor."""
        return number * factor

    yield made
    del FAMILIES["proof"]


def test_the_signature_is_the_schema(family):
    card = family["scale"]
    assert card.summary == "Multiply by a factor."
    assert {name: option.default for name, option in card.options.items()} == {"factor": 2.0, "label": ""}
    assert (card.paper, card.idea) == ("Nobody 2026", "Z1")


def test_bind_sets_options_and_calls(family):
    assert family.bind("scale")(3.0) == 6.0
    assert family.bind("scale", factor="5")(3.0) == 15.0


def test_json_of_a_piece_holds_only_what_differs_from_the_defaults(family):
    assert family.bind("scale", factor=2.0).as_json() == {"name": "scale"}
    assert family.bind("scale", factor=3).as_json() == {"name": "scale", "factor": 3.0}


@pytest.mark.parametrize("spec", ["scale", {"name": "scale"}, '{"name": "scale"}'])
def test_from_json_takes_name_mapping_or_text(family, spec):
    assert family.from_json(spec).as_json() == {"name": "scale"}


def test_from_json_returns_a_piece_unchanged(family):
    piece = family.bind("scale", factor=4)
    assert isinstance(piece, Piece)
    assert family.from_json(piece) is piece


def test_rest_behind_a_colon_goes_to_the_suffix_option(family):
    assert family.bind("scale:left").as_json() == {"name": "scale", "label": "left"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda family: family.bind("scael"), "Did you mean 'scale'"),
        (lambda family: family.bind("scale", facto=1), "Did you mean 'factor'"),
        (lambda family: family.bind("scale", factor="much"), "option 'factor' of proof 'scale'"),
        (lambda family: family.from_json("{"), "not valid JSON"),
        (lambda family: family.from_json({"factor": 2}), 'needs a "name"'),
    ],
)
def test_mistakes_are_named(family, call, message):
    with pytest.raises(ValueError, match=message):
        call(family)


def test_unknown_name_without_a_near_one_lists_all(family):
    with pytest.raises(UnknownName, match="Known: scale"):
        family["zzzzzz"]


def test_registration_refuses_what_is_not_a_piece(family):
    with pytest.raises(AssertionError, match="needs a default"):

        @family.register("bare")
        def bare(number: float, *, factor: float) -> float:
            """Multiply."""
            return number * factor

    with pytest.raises(AssertionError, match="hands over"):

        @family.register("other")
        def other(text: str) -> str:
            """Return it."""
            return text

    with pytest.raises(AssertionError, match="full stop"):

        @family.register("terse")
        def terse(number: float) -> float:
            return number


def test_a_name_is_registered_once(family):
    with pytest.raises(AssertionError, match="twice"):
        family.register("scale")(lambda number: number)
