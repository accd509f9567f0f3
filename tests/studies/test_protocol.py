import pytest

from compress import catalogue
from compress.core.model import Model
from compress.core.stage import STAGES
from compress.data.source import MissingData
from compress.run import task_of
from compress.studies import Bench, Cell
from compress.studies.finder import find_study, study_names
from studies import protocol
from studies.ideas import STUDIES
from tests.studies.tiny import DIGITS

catalogue.load()


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "scratch").mkdir()
    return Bench(workspace=tmp_path, scratch=tmp_path / "scratch")


@pytest.fixture
def task():
    return task_of(DIGITS["task"])


def test_missing_weights_name_every_place_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingData) as found:
        protocol.weights_path("net.npz")
    assert str(tmp_path / "mine" / "weights" / "net.npz") in str(found.value)
    assert str(tmp_path / "data" / "weights" / "net.npz") in str(found.value)
    assert "Set SECATEUR_DATA" in str(found.value)
    (tmp_path / "mine" / "weights").mkdir(parents=True)
    (tmp_path / "mine" / "weights" / "net.npz").write_bytes(b"1")
    digests = protocol.data_of(Cell(name="a", settings={"task": "digits", "weights": "net.npz"}))
    assert set(digests) == {"digits", "net.npz"}
    assert digests["digits"] == task_of("digits").digest


@pytest.mark.parametrize("criterion", ["magnitude", "taylor"])
def test_a_cut_alone_is_the_cut_of_the_stage(bench, task, criterion):
    start = protocol.start_of(bench, DIGITS, task)
    model = protocol.store_of(bench).get(start).model
    options = {"criterion": criterion, "budget": "macs=0.5", "batch_size": 32, "score_batches": 2}
    alone = protocol.cut_alone(model, task, options, seed=3, scratch=bench.scratch)
    staged = protocol.cut_by_stage(bench, start, task, options, seed=3).model
    assert alone.lineage.steps[-1].plan == staged.lineage.steps[-1].plan
    assert protocol.costs(model, alone, rounds=0)["macs"] >= 2


def test_the_rate_that_is_better_on_validation_data_counts(bench, task, monkeypatch):
    model = protocol.store_of(bench).get(protocol.start_of(bench, DIGITS, task)).model
    worth = {0.01: 0.4, 0.05: 0.6, 0.1: 0.6}
    tried = []

    def tuned(model: Model, task, settings, rate, *, seed, scratch, teacher):
        tried.append((rate, seed))
        return model, worth[rate]

    monkeypatch.setattr(protocol, "tuned", tuned)
    final, found = protocol.recovery(bench, model, task, DIGITS, seed=5, rates=tuple(worth))
    assert tried == [(0.01, 5), (0.05, 5), (0.1, 5)]
    assert found["rate"] == 0.05
    assert found["rates"] == {"0.01": 0.4, "0.05": 0.6, "0.1": 0.6}
    assert set(found["test"]) == {"cut", "recalibrated", "tuned"}
    assert final.module is not model.module, "the network that was given stays as it is"


@pytest.mark.parametrize("name", study_names(STUDIES))
def test_the_stages_know_every_option_of_every_cell(name):
    study = find_study(STUDIES, name).study
    for preset in study.presets:
        for cell in study.cells(preset):
            own = [cell.settings.get(key, {}) for key in ("options", "prune")]
            for options in [*own, *(way for way in cell.settings.get("ways", ()) if "reach" not in way)]:
                STAGES["prune"].extra["config"].from_json(options)
            STAGES["train"].extra["config"].from_json(cell.settings.get("train", {}))
            STAGES["sensitivity"].extra["config"].from_json(cell.settings.get("curves", {}))
