from dataclasses import dataclass, replace

import pytest

from compress.core.stage import STAGES, Ref, StageConfig, StageResult, identity
from compress.core.task import SealedTestSplit
from compress.run import import_model, run_stage, task_of
from compress.store import LocalStore
from tests.toys import toy_model, toy_task

CALLS: list[str] = []


@dataclass(frozen=True, kw_only=True)
class EchoConfig(StageConfig):
    word: str = "hello"


if "echo" not in STAGES:

    @STAGES.register("echo", config=EchoConfig, roles=(), optional_roles=("model",))
    def echo(call):
        """Say a word, and pass a model on."""
        CALLS.append(call.config.word)
        (call.scratch / "checkpoint").write_text("x")
        if call.config.word == "peek":
            call.task.split("test")
        model = call.parents["model"].model if "model" in call.parents else None
        return StageResult(report={"word": call.config.word}, model=model)

    @STAGES.register("echo_test", config=EchoConfig, roles=("model",), reads_test=True)
    def echo_test(call):
        """Count the test data."""
        return StageResult(report={"num_test": len(call.task.split("test"))})


@pytest.fixture
def store(tmp_path):
    CALLS.clear()
    return LocalStore(tmp_path)


def test_finished_work_is_not_redone(store):
    first = run_stage("echo", {"word": "a"}, {}, None, store)
    second = run_stage("echo", '{"word": "a"}', {}, None, store)
    assert (first.is_reused, second.is_reused) == (False, True)
    assert first.entry.ref == second.entry.ref
    assert CALLS == ["a"]


def test_scratch_is_cleared_when_the_entry_is_there(store):
    ref = run_stage("echo", {}, {}, None, store).entry.ref
    assert list(store.scratch(ref).iterdir()) == []


def test_a_failed_stage_keeps_its_scratch_and_stores_nothing(store):
    with pytest.raises(SealedTestSplit):
        run_stage("echo", {"word": "peek"}, {}, toy_task(), store)
    ref, _ = identity("echo", EchoConfig(word="peek"), {}, toy_task())
    assert not store.has(ref)
    assert (store.scratch(ref) / "checkpoint").exists()


def test_only_a_stage_that_says_so_reads_the_test_split(store):
    model = import_model(toy_model(), store)
    outcome = run_stage("echo_test", {}, {"model": model}, toy_task(), store)
    assert outcome.entry.report == {"num_test": 48}


def test_roles_are_checked_before_any_work(store):
    with pytest.raises(ValueError, match="needs model: pass --model"):
        run_stage("echo_test", {}, {}, None, store)
    with pytest.raises(ValueError, match="Did you mean 'model'"):
        run_stage("echo", {}, {"modle": Ref("x-1")}, None, store)
    assert CALLS == []


def test_an_unknown_stage_or_option_is_named(store):
    with pytest.raises(ValueError, match="Did you mean 'echo'"):
        run_stage("ecko", {}, {}, None, store)
    with pytest.raises(ValueError, match="Did you mean 'word'"):
        run_stage("echo", {"wrod": "x"}, {}, None, store)


def test_an_imported_model_has_a_name_made_of_its_content(store):
    first, again, other = (import_model(toy_model(seed), store) for seed in (0, 0, 1))
    assert first == again != other
    assert store.get(first).model.input == toy_model().input


def test_the_same_weights_with_another_input_are_another_model(store):
    model = toy_model()
    other = replace(model, input=replace(model.input, mean=(0.1,)))
    assert import_model(model, store) != import_model(other, store)


def test_a_task_comes_from_a_name_json_or_a_pinned_identity():
    assert task_of("toy").digest == "toy-0"
    assert task_of('{"name": "toy", "seed": 2}').digest == "toy-2"
    assert task_of(toy_task(1).identity()).digest == "toy-1"


def test_text_that_is_no_task_is_named():
    with pytest.raises(ValueError, match="not valid JSON"):
        task_of("{")
    with pytest.raises(ValueError, match='needs a "name"'):
        task_of({"piece": {"name": "toy"}})


def test_data_that_changed_since_it_was_pinned_is_refused():
    pinned = {**toy_task().identity(), "digest": "0" * 64}
    with pytest.raises(ValueError, match="the data of task 'toy' changed"):
        task_of(pinned)
