import pytest

from compress import catalogue
from compress.prune.criteria import CRITERIA
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()


@pytest.fixture(scope="module")
def module():
    return module_of("0001")


def test_full_has_every_criterion_and_every_importance_with_three_seeds(module):
    cells = list(module.full())
    names = {cell.name for cell in cells}
    assert set(CRITERIA) <= names
    assert {f"tp_{name}" for name in module.IMPORTANCES} <= names
    assert "default" in names
    assert len(cells) == 3 * len(names)
    assert {tuple(cell.settings["rates"]) for cell in cells} == {(0.01, 0.05)}
    assert {cell.settings["steps"] for cell in cells} == {157}


@pytest.mark.slow
def test_it_runs_and_concludes(module, tmp_path):
    ways = [{"criterion": "magnitude", "normalizer": name} for name in ("none", "mean")]
    tiny = {**module.BASE, **DIGITS, "macs": 0.5, "rates": [0.01, 0.05], "choose_images": 32}
    cells = [
        *module.seeded_cells("magnitude", {**tiny, "ways": ways}, (0, 1)),
        *module.seeded_cells("random", {**tiny, "ways": [{"criterion": "random"}]}, (0, 1)),
        *module.seeded_cells("default", {**tiny, "ways": [{}]}, (0, 1)),
        *module.seeded_cells("tp_magnitude", {**tiny, "importance": "magnitude", "ways": module.TP_WAYS[::2]}, (0, 1)),
    ]
    table = measured(module, cells, tmp_path)
    first, second = table.of("magnitude")
    assert first["way"] == ways[max((0, 1), key=lambda k: first["ways"][k][1])]
    assert first["rate"] == float(max(first["rates"], key=first["rates"].get))
    assert (second["way"], second["rate"]) == (first["way"], first["rate"])
    assert table.of("random")[0]["macs"] >= 2
    assert set(first["test"]) == {"cut", "recalibrated", "tuned"}
    assert first["faster.onnxruntime, batch 64.value"] > 0
    verdict = module.conclude(table)
    assert "Torch-Pruning's magnitude" in verdict.headline
    assert any(sentence.startswith("the default") for sentence in verdict.sentences)
    assert any(sentence.startswith("our magnitude") for sentence in verdict.sentences)
    assert any("random" in sentence and "magnitude" in sentence for sentence in verdict.sentences)
    assert verdict.table.count("\n| ") == 5
    assert "Torch-Pruning" in module.figures(table)["accuracy"]
