"""Study 0007: its cells, that both ways of selection differ in selection alone, and what the verdict says."""

import shutil
from dataclasses import replace
from functools import partial

import pytest
import torch

from compress import catalogue
from compress.core.random import derived_seed
from compress.studies import Cell, Row, Table
from compress.studies.finder import FoundStudy
from compress.studies.runner import run_cells
from compress.train.fit import fit
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()
STUDY = module_of("0007")
CLEAN, ALIKE = STUDY.CLEAN, STUDY.ALIKE


def tiny_base(share):
    recovery = {"precision": "float32", "epochs": 4, "batch_size": 32, "ema_decay": 0.0, "loss": "logits"}
    prune = {**STUDY.BASE["prune"], "batch_size": 32, "score_batches": 2, "precision": "float32"}
    prune["schedule"] = {"name": "progressive", "steps": 2} if share else "one_shot"
    return {**STUDY.BASE, **DIGITS, "recovery": recovery, "prune": prune, "cutting_share": share}


@pytest.mark.slow
def test_resnet56(tmp_path, monkeypatch):
    """Both ways have a start, cuts and a recovery on the images of their own task, at the rate that seed 0 chose."""
    cuts, fits = [], []
    cut_by_stage, fit = STUDY.cut_by_stage, STUDY.fit

    def noted_cut(bench, start, task, options, *, seed):
        cuts.append((bench.scratch.name, start, task.digest.endswith("as the literature"), options))
        return cut_by_stage(bench, start, task, options, seed=seed)

    def noted_fit(module, task, config, *, what, **rest):
        fits.append((what, config, task.digest.endswith("as the literature")))
        return fit(module, task, config, what=what, **rest)

    monkeypatch.setattr(STUDY, "cut_by_stage", noted_cut)
    monkeypatch.setattr(STUDY, "fit", noted_fit)
    cells = STUDY.grid(tiny_base(0.5), speeds=("2.13",), seeds=(0, 1), rates=(0.001, 0.05))
    table = measured(STUDY, cells, tmp_path)
    clean, alike = (table.of(f"{kind}=2.13") for kind in (CLEAN, ALIKE))
    rates = clean[0]["rates"]
    chosen = max(rates, key=rates.get)
    assert set(rates) == {"0.001", "0.05"}
    assert [f"{row['rate']:g}" for row in (*clean, *alike)] == [chosen] * 4
    trial = table.of(f"rate=2.13,{chosen}")[0]
    assert clean[0]["test"] == trial["test"], "the best try is the row of the first seed"
    assert all(row["macs"] >= 2.13 for row in (*clean, *alike))
    assert len(cuts) == len(fits) == 2 + 1 + 2, "nothing is trained twice"
    assert all(is_alike == label.startswith(ALIKE) for label, _, is_alike, _ in cuts)
    assert all(is_alike == what.startswith(ALIKE) for what, _, is_alike in fits)
    assert len({start for _, start, _, _ in cuts}) == 2, "each way has a start of its own"
    assert all(options["loss"] == "logits" and options["epochs"] == 2 for *_, options in cuts)
    assert {options["recipe"]["lr"] for *_, options in cuts} == {0.001, 0.05}
    for what, config, _ in fits:
        assert config.seed == derived_seed(int(what[-1]), "recovery")
        assert config.epochs == 2
    assert alike[0]["selected_on"] == alike[0]["test.tuned"], "the literature selects on test images"
    for kind, row in ((CLEAN, clean[0]), (ALIKE, alike[0])):
        assert table.of(f"start={kind}")[0]["test.start"] == row["test.start"]
    verdict = STUDY.conclude(table)
    assert verdict.headline.startswith("At 2.13x fewer multiply-adds, selected on validation data: ")
    assert verdict.sentences[0].startswith(f"The rate {chosen} at 2.13x was chosen on validation data, seed 0: ")
    assert "best published" in STUDY.figures(table)["accuracy"]


@pytest.mark.slow
def test_tries_of_a_cut_at_once_share_the_cut(tmp_path):
    cells = STUDY.grid(tiny_base(0.0), speeds=("2.13",), seeds=(0,), rates=(0.01, 0.05))
    table = measured(STUDY, [cell for cell in cells if "rate=" in cell.name or cell.name == f"start={CLEAN}"], tmp_path)
    assert len(table.rows) == 3
    assert len(list((tmp_path / "store").glob("entries/prune-*"))) == 1, "both tries start from one cut"


@pytest.mark.slow
def test_cells_of_several_workspaces_come_together(tmp_path, monkeypatch):
    """The three rounds of the README: starts, tries, the rest; no network is trained twice."""
    fits = []
    monkeypatch.setattr(STUDY, "fit", lambda *args, **named: fits.append(named["what"]) or fit(*args, **named))
    cells = list(STUDY.grid(tiny_base(0.0), speeds=("2.13",), seeds=(0,), rates=(0.01, 0.05)))
    study = replace(STUDY.STUDY, presets={"tiny": lambda: cells})
    found = FoundStudy(name="0007-resnet56", folder=tmp_path, study=study)
    run = partial(run_cells, found, "tiny")
    run(tmp_path / "a", only=[f"start={CLEAN}"])
    run(tmp_path / "b", only=[f"start={ALIKE}"])
    for copy, rate in (("a1", "0.01"), ("a2", "0.05")):
        shutil.copytree(tmp_path / "a", tmp_path / copy)
        run(tmp_path / copy, only=[f"rate=2.13,{rate}"])
    for source in ("a", "b", "a1", "a2"):
        for part in ("cells", "store/entries"):
            parts = [tmp_path / place / found.name / part for place in (source, "all")]
            shutil.copytree(*parts, dirs_exist_ok=True)
    num_tries = len(fits)
    assert run(tmp_path / "all", only=[f"{CLEAN}=*@0"]).failed == {}
    assert num_tries == len(fits) == 2, "the choice trains nothing"
    progress = run(tmp_path / "all", only=[f"{ALIKE}=2.13@0"])
    assert progress.is_complete
    assert len(list((tmp_path / "all" / found.name / "store" / "entries").glob("train-*"))) == 2
    assert [what.partition("=")[0] for what in fits[2:]] == [ALIKE]


def test_full_trains_both_starts_alike_and_tries_three_rates():
    cells = {cell.label: cell for cell in STUDY.STUDY.cells("full")}
    starts = [cells[f"start={kind}@0"].settings for kind in (CLEAN, ALIKE)]
    assert [{**start, "kind": ""} for start in starts] == [{**starts[0], "kind": ""}] * 2
    assert starts[0]["train"]["epochs"] == 200
    assert starts[0]["weights"] is None
    for speed in ("2.13", "2.57"):
        tries = [f"rate={speed},{rate}@0" for rate in ("0.02", "0.05", "0.1")]
        assert cells[f"{CLEAN}={speed}@0"].after == tuple(tries)
        assert all(cells[label].after == (f"start={CLEAN}@0",) for label in tries)
        for seed in (0, 1, 2):
            alike = cells[f"{ALIKE}={speed}@{seed}"]
            assert alike.after == (f"start={ALIKE}@0", f"{CLEAN}={speed}@0")
            clean = cells[f"{CLEAN}={speed}@{seed}"]
            assert {**alike.settings, "kind": CLEAN} == clean.settings, "the two differ in selection alone"
    assert len(cells) == 2 + 2 * (3 + 3 + 3)


def test_the_literature_trains_on_everything_and_selects_on_test_images():
    plain = STUDY.task_of("digits")
    task = STUDY.as_the_literature(plain)
    size, rest = len(plain.split("train")), len(plain.split("validation"))
    train = task.split("train")
    assert len(train) == size + rest
    index = torch.tensor([size + 1, 0, size - 1, size])
    expected = [
        plain.split("validation").images(index[:1] - size)[0],
        plain.split("train").images(index[1:2])[0],
        plain.split("train").images(index[2:3])[0],
        plain.split("validation").images(index[3:] - size)[0],
    ]
    assert torch.equal(train.images(index), torch.stack(expected))
    assert train.labels_B[size + 1] == plain.split("validation").labels_B[1]
    assert torch.equal(task.split("validation").labels_B, plain.opened().split("test").labels_B)
    assert task.digest != plain.digest


def table_of(weights=None, **tuned):
    """Return a table from test accuracies of each seed, by way of selection, at 2.13x; the start has 94 %."""
    rows = []
    for kind, values in tuned.items():
        for seed, value in enumerate(values):
            result = {"test": {"start": 0.94, "tuned": value}, "macs": 2.13, "rate": 0.05, "epochs": 200}
            cell = Cell(name=f"{kind}=2.13", seed=seed, settings={"weights": weights})
            rows.append(Row(cell=cell, result=result))
    return Table(preset="full", rows=tuple(rows))


def test_a_figure_whose_interval_holds_the_published_one_is_no_different():
    found = table_of(validation_selected=[0.935, 0.938, 0.939], best_test_epoch=[0.94, 0.9401, 0.9402])
    verdict = STUDY.conclude(found)
    clean, alike = verdict.headline.split("; ")
    assert clean == (
        "At 2.13x fewer multiply-adds, selected on validation data: 93.73 ± 0.52 % (3 seeds), 0.27 ± 0.52 points below "
        "the uncut network's 94.00 %, undecided against the best published 93.77 % "
        "(selected on test images)"
    )
    assert alike == (
        "best test epoch, as the literature selects: 94.01 ± 0.02 % (3 seeds), 0.01 ± 0.02 points above the uncut "
        "network's 94.00 %, 0.24 points above the best published 93.77 % (selected alike)."
    )
    assert "own spread the interval leaves out" in verdict.table


def test_one_seed_and_a_start_that_saw_the_validation_images_are_named():
    verdict = STUDY.conclude(table_of("weights.npz", validation_selected=[0.92], best_test_epoch=[0.93]))
    clean, alike = verdict.headline.split("; ")
    assert "selected on validation data, whose images the start was trained on: 92.00 % (1 seed)" in clean
    assert clean.endswith(
        "1.77 points below the best published 93.77 % (selected on test images), of one seed, so without an interval"
    )
    assert "trained on" not in alike


def test_tries_and_starts_alone_are_no_verdict():
    rows = (Row(cell=Cell(name="rate=2.13,0.02"), result={"selected_on": 0.9, "rate": 0.02}),)
    assert STUDY.conclude(Table(preset="full", rows=rows)).headline == "No network is cut yet."
    assert STUDY.figures(Table(preset="full", rows=rows)) == {"accuracy": ""}
