"""The stage search on a shared study: workers with stores of their own end in the same entry."""

import pytest

from compress.core.stage import identity
from compress.run import import_model, run_stage
from compress.search.sharing import STORAGE
from compress.stages import search as search_module
from compress.stages.search import SearchConfig
from compress.store import LocalStore
from compress.train.checkpoint import state_digest
from tests.compress.search.toy_training import trained_toy
from tests.toys import toy_task

QUICK = {"num_trials": 5, "recalibration_batches": 1, "batch_size": 32, "shared": True}


def work(folder, **options):
    store = LocalStore(folder)
    parents = {"model": import_model(trained_toy(), store)}
    return run_stage("search", SearchConfig(**QUICK, **options), parents, toy_task(), store), store


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["regularised_evolution", "nsga2"])
def test_a_second_worker_finds_the_study_done_and_chooses_the_same(tmp_path, monkeypatch, strategy):
    address = f"sqlite:///{tmp_path / 'study.db'}"
    monkeypatch.setenv(STORAGE, address)
    options = {"strategy": {"name": strategy, "population": 3, **({"sample": 2} if strategy[0] == "r" else {})}}
    first, store = work(tmp_path / "one", **options)
    assert (first.is_reused, len(first.entry.report["trials"])) == (False, 5)
    assert not list((store.root / "scratch").glob("*"))

    asked = []
    monkeypatch.setattr(search_module._Search, "build", watched(search_module._Search.build, asked))
    second, _ = work(tmp_path / "two", **options)
    assert second.entry.ref == first.entry.ref
    assert second.entry.report == first.entry.report
    assert state_digest(second.entry.model.module) == state_digest(first.entry.model.module)
    assert len(asked) == 1, "only the chosen candidate is built again"
    assert work(tmp_path / "one", **options)[0].is_reused
    for path in (tmp_path / "one").rglob("*.json"):
        assert "sqlite:" not in path.read_text()


def watched(build, asked):
    def watch(self, candidate):
        asked.append(candidate.key)
        return build(self, candidate)

    return watch


def test_where_the_study_lies_is_not_part_of_the_name_but_sharing_is(monkeypatch):
    names = set()
    for address in ("sqlite:///a", "sqlite:///b"):
        monkeypatch.setenv(STORAGE, address)
        names.add(identity("search", SearchConfig(shared=True), {}, toy_task())[0])
    assert len(names) == 1
    assert identity("search", SearchConfig(), {}, toy_task())[0] not in names


def test_a_shared_search_without_a_database_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv(STORAGE, raising=False)
    with pytest.raises(ValueError, match=f"set {STORAGE}"):
        work(tmp_path)
