"""Study 0008 on handwritten digits: decided once, trained as the stage trains, and nothing left out of the verdict."""

import pytest
import torch

from compress import catalogue
from compress.measure import cost_of
from compress.measure.paired import Ratio
from compress.prune.converting import Referee
from compress.run import run_stage, task_of
from compress.studies import Bench, Cell, Row, Table
from tests.studies.tiny import DIGITS, measured, module_of

catalogue.load()
MODULE = module_of("0008")
BASE = {**MODULE.BASE, **DIGITS, "builder": {"name": "resnet_cifar", "depth": 8, "width": 16}, "steps": 8, "rounds": 0}
BASE |= {"ways": [MODULE.WAYS[0], MODULE.WAYS[3]], "choose_images": 32, "rates": [0.01, 0.05]}
PAIRS = "depthwise_separable=b64"


@pytest.fixture
def asked(monkeypatch):
    """Let multiply-adds stand in for the time; return the questions that were measured."""
    questions = []

    def measured_ratio(referee, numerator, denominator):
        questions.append(referee.batch)
        value = cost_of(numerator).macs / cost_of(denominator).macs
        return Ratio(value, value, value)

    monkeypatch.setattr(Referee, "_measured", measured_ratio)
    return questions


def grid(**more):
    options = {"kinds": ("depthwise_separable",), "at_once": (), "batches": (64,), "seeds": (0,)}
    return list(MODULE.grid(BASE, **{**options, **more}))


@pytest.mark.slow
def test_three_arms_of_the_same_layers(tmp_path, asked):
    cells = grid(at_once=("depthwise_separable",), seeds=(0, 1))
    first = measured(MODULE, cells[:1], tmp_path / "alone")
    num_asked = len(asked)
    assert num_asked == 1 + len(first.rows[0]["shapes"])
    table = measured(MODULE, cells, tmp_path / "all")
    assert len(asked) == 2 * num_asked, "the first cell decides for all rates, arms and seeds"
    faded, channels, at_once = (table.of(f"{arm}{PAIRS}") for arm in ("", MODULE.CHANNELS, MODULE.AT_ONCE))
    assert faded[0]["macs"] == faded[1]["macs"] == at_once[0]["macs"] == at_once[1]["macs"] > 3
    assert all(faded[0]["macs"] * 0.9999 <= row["macs"] for row in channels)
    for first, second in (faded, channels, at_once):
        assert set(first["rates"]) == {"0.01", "0.05"}
        assert first["validation.tuned"] == max(first["rates"].values()) == first["rates"][f"{first['rate']:g}"]
        assert list(second["rates"]) == [f"{first['rate']:g}"]
    first, second = channels
    scores = [score for _, score in first["ways"]]
    assert first["way"] == first["ways"][scores.index(max(scores))][0]
    assert second["ways"] == [[first["way"], second["ways"][0][1]]]
    verdict = MODULE.conclude(table)
    assert verdict.headline.startswith(
        "Against cut channels at no more multiply-adds and equal training steps, in test"
    )
    assert "depthwise separable (judged at batch 64)" in verdict.headline
    assert f"at {faded[0]['macs']:.2f}x against " in verdict.sentences[0]
    assert "faded in" in verdict.sentences[1]
    assert "the same at once" in verdict.sentences[1]
    assert verdict.table.count("\n| ") == 4
    assert "depthwise separable at once, batch 64" in MODULE.figures(table)["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["", MODULE.AT_ONCE, MODULE.CHANNELS])
def test_every_arm_trains_as_the_stage_does(tmp_path, asked, monkeypatch, arm):
    finals = []

    def costs(_, after, *, rounds):
        finals.append(after)
        return {"macs": 3.0, "params": 3.0}

    monkeypatch.setattr(MODULE, "costs", costs)
    cells = [cell for cell in grid(at_once=("depthwise_separable",)) if cell.name in (PAIRS, f"{arm}{PAIRS}")]
    settings = {"rates": [0.05], "ways": [MODULE.WAYS[3]]}
    judged = measured(MODULE, cells, tmp_path, **settings).rows[-1]
    settings = {**cells[-1].settings, **settings}
    same = ("batch_size", "precision", "recalibrate_batches", "score_batches", "latency_batch", "latency_rounds")
    options = {"recipe": {"name": "sgd_cosine", "lr": 0.05}, "max_steps": settings["steps"]}
    options |= {name: settings[name] for name in same} | {"budget": "macs=1"}
    if arm == MODULE.CHANNELS:
        options |= {**settings["ways"][0], "budget": f"macs={1 / 3:.5f}"}
    else:
        options |= {"conversion": settings["conversion"], "conversion_share": settings["share"]}
    bench, task = Bench(workspace=tmp_path, scratch=tmp_path), task_of(settings["task"])
    parents = {"model": MODULE.start_of(bench, settings, task)}
    entry = run_stage("prune", options, parents, task, MODULE.store_of(bench)).entry
    steps = [fit["num_steps"] for fit in entry.report["fits"]]
    assert steps == ([8] if arm else [4, 4])
    assert sum(steps) == settings["steps"]
    assert judged["validation.tuned"] == entry.report["validation_accuracy"]
    mine, theirs = finals[-1].module.state_dict(), entry.model.module.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_what_cannot_be_compared_is_said(tmp_path, asked):
    out_of_reach = {"ways": [{**MODULE.WAYS[0], "allocator": {"name": "global", "min_kept_ratio": 0.9}}]}
    table = measured(MODULE, grid(seeds=(0, 1)), tmp_path / "unreachable", **out_of_reach)
    assert [row["unreachable"][:14] for row in table.of(f"{MODULE.CHANNELS}{PAIRS}")] == ["no model fits "] * 2
    verdict = MODULE.conclude(table)
    said = "Cut channels cannot get down to what depthwise separable (judged at batch 64) leaves: no model fits macs"
    assert verdict.headline.startswith(said)
    assert verdict.table.count("\n| ") == 2


@pytest.mark.slow
def test_a_refused_conversion_trains_nothing_and_names_the_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(Referee, "_measured", lambda *_: Ratio(1.1, 1.0, 1.2))
    monkeypatch.setattr(MODULE, "recovery", None)
    monkeypatch.setattr(MODULE, "_faded", None)
    table = measured(MODULE, grid(kinds=("grouped",), at_once=("grouped",), seeds=(0, 1)), tmp_path)
    assert all(row["refused"] == table.rows[0]["refused"] for row in table.rows)
    verdict = MODULE.conclude(table)
    why = "4 groups do not divide both 1 and 16 channels (1 layer); not faster (6 layers)"
    assert verdict.headline == f"No layer becomes grouped (judged at batch 64): {why}."
    assert verdict.sentences == ()
    assert not MODULE.figures(table)["accuracy"]


@pytest.mark.slow
def test_another_decision_is_an_error(tmp_path, asked):
    first, second = [cell for cell in grid(seeds=(0, 1)) if cell.name == PAIRS]
    result = measured(MODULE, [first], tmp_path).rows[0].result
    slower = [{"value": 1.1, "low": 1.0, "high": 1.2}] * len(result["ratios"])
    bench = Bench(workspace=tmp_path, scratch=tmp_path, found={first.label: {**result, "ratios": slower}})
    with pytest.raises(ValueError, match="are not those of that cell"):
        MODULE.run(second, bench)


def rows(name, values, **result):
    own = {"rate": 0.01, "macs": 6.0, "way": MODULE.WAYS[0], **result}
    return [Row(cell=Cell(name=name, seed=k), result={"test": {"tuned": v}, **own}) for k, v in enumerate(values)]


def test_the_headline_says_who_is_better_worse_and_open():
    found = []
    for kind, values in (("low_rank", (0.9, 0.91, 0.9)), ("grouped", (0.7, 0.71, 0.7)), ("separable", (0.9, 0.7, 0.8))):
        found += rows(f"{kind}=b64", values) + rows(f"{MODULE.CHANNELS}{kind}=b64", (0.8, 0.81, 0.8))
    found += rows("decoupled=b64", (0.9,)) + rows(f"{MODULE.CHANNELS}decoupled=b64", (0.8,))
    verdict = MODULE.conclude(Table(preset="full", rows=tuple(found)))
    assert verdict.headline == (
        "Against cut channels at no more multiply-adds and equal training steps, in test accuracy, better: low rank "
        "(judged at batch 64); worse: grouped (judged at batch 64); not decided: separable (judged at batch 64)."
    )
    assert verdict.sentences[3].startswith("Decoupled (judged at batch 64) is 10.00 points above cut channels")
    assert "(1 seed, so no interval)" in verdict.sentences[3]


def test_full_fades_everything_and_replaces_two_at_once():
    names = {cell.name for cell in MODULE.full()}
    assert {f"{kind}=b{batch}" for kind in MODULE.KINDS for batch in (1, 64)} <= names
    assert {f"{MODULE.AT_ONCE}{kind}=b1" for kind in ("grouped", "depthwise_separable")} <= names
    assert all(
        cell.settings["rates"] == [0.01, 0.05] for preset in MODULE.STUDY.presets for cell in MODULE.STUDY.cells(preset)
    )
