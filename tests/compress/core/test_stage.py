from dataclasses import dataclass

import pytest

from compress.core.registry import FAMILIES, Family
from compress.core.stage import STAGES, Entry, Ref, StageCall, StageConfig, identity, piece_field
from tests.toys import toy_entry, toy_model, toy_task

KNOBS: Family = FAMILIES.get("knob") or Family("knob", data=())
if "small" not in KNOBS:

    @KNOBS.register("small")
    def small(*, size: int = 1) -> int:
        """Return a small number."""
        return size


@dataclass(frozen=True, kw_only=True)
class ProofConfig(StageConfig):
    knob: str = piece_field(KNOBS, "small")
    rounds: int = 3
    sizes: tuple[int, ...] = (1, 2)


if "proof" not in STAGES:

    @STAGES.register("proof", config=ProofConfig, roles=("model",))
    def proof(call):
        """Do nothing."""


def test_a_configuration_binds_its_pieces_and_parses_its_fields():
    config = ProofConfig.from_json('{"knob": {"name": "small", "size": 4}, "rounds": "5", "sizes": [3]}')
    assert (config.knob(), config.rounds, config.sizes) == (4, 5, (3,))


def test_json_of_a_configuration_leaves_the_defaults_out():
    assert ProofConfig().as_json() == {}
    assert ProofConfig(rounds=4, knob={"name": "small", "size": 1}).as_json() == {"rounds": 4}
    assert ProofConfig(knob={"name": "small", "size": 2}).as_json() == {"knob": {"name": "small", "size": 2}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"round": 1}, "Did you mean 'rounds'"),
        ({"rounds": "many"}, "option 'rounds' of ProofConfig"),
        ({"knob": "smal"}, "Did you mean 'small'"),
        ("[", "not valid JSON"),
    ],
)
def test_mistakes_in_a_configuration_are_named(data, message):
    with pytest.raises(ValueError, match=message):
        ProofConfig.from_json(data)


def test_identity_depends_on_everything_that_shapes_the_result():
    def ref(config=None, parents=None, task=None):
        return identity("proof", config or ProofConfig(), parents or {"model": Ref("a-1")}, task)[0]

    base = ref()
    assert base == ref(ProofConfig(rounds=3))
    assert base.startswith("proof-")
    assert len(base) == len("proof-") + 16
    others = {
        ref(ProofConfig(rounds=4)),
        ref(parents={"model": Ref("a-2")}),
        ref(task=toy_task()),
        ref(task=toy_task(1)),
    }
    assert len(others | {base}) == 5


def test_an_entry_without_a_model_says_so():
    with pytest.raises(ValueError, match="gate-1 holds no model"):
        _ = Entry(ref=Ref("gate-1"), report={}).model


def test_a_call_checks_that_the_model_fits_the_task(tmp_path):
    parents = {"model": toy_entry()}
    call = StageCall(config=ProofConfig(), parents=parents, scratch=tmp_path, optional_task=toy_task())
    assert call.model().input == toy_model().input
    bare = StageCall(config=ProofConfig(), parents=parents, scratch=tmp_path)
    assert bare.model() is call.model()
    with pytest.raises(ValueError, match="pass --task"):
        _ = bare.task
