"""The page: complete, self-contained, escaped, and whole when parts are missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from deploy.report import gather, write_report
from deploy.report.render import page
from tests.deploy.report.sample_run import Records, sample

VOID = {"meta", "br", "input", "link", "img", "hr"}


class Wellformed(HTMLParser):
    """Checks that every element is closed, and collects addresses and visible text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open."""
        values = dict(attrs)
        self.addresses += [str(values[name]) for name in ("href", "src", "action") if name in values]
        self.ids += [str(values["id"])] if "id" in values else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open and close."""

    def handle_endtag(self, tag: str) -> None:
        """Close."""
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        """Collect."""
        self.words.append(data)


def read(html: str) -> Wellformed:
    parser = Wellformed()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    return parser


def words(html: str) -> str:
    return " ".join(" ".join(read(html).words).split())


def test_everything_is_on_the_page() -> None:
    store, refs = sample()
    promotion = {"promoted": True, "version": "3", "previous": "2", "name": "digits", "reasons": []}
    text = words(page(gather(store, refs, promotion=promotion, pull={"python": "load(folder)"})))
    for part in ("98.85 %", "1.85×", "signed", "chosen", "demoted", "no NVIDIA GPU", "answered by the small model",
                 "after the cut 41.00 %", "layers.1.2", "load(folder)", "Version 3 of", "Example CPU", "torch 2.9.0",
                 "40 trials", "97.8–99.2", "On validation inputs 100.00 % same answers"):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize("budgets", [(0.24,), (0.5, 0.24, 0.1)])
def test_the_page_needs_nothing_from_elsewhere(budgets: tuple[float, ...]) -> None:
    store, refs = sample(budgets)
    html = page(gather(store, refs))
    assert all(address.startswith("#") for address in read(html).addresses)
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html
    assert set(re.findall(r"https?://[^\"' <)]+", html)) <= {"http://www.w3.org/2000/svg"}


def spoiled(value: Any, text: str) -> Any:
    """Return the same structure with `text` behind every string and name that people chose."""
    if isinstance(value, dict):
        return {key: spoiled(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [spoiled(item, text) for item in value]
    return value + text if isinstance(value, str) else value


def test_hostile_names_stay_text() -> None:
    store, refs = sample()
    attack = "<img src=x onerror=alert(1)>\"'"
    for record in store.kept.values():
        record["report"] = spoiled(record["report"], attack)
        record["identity"]["config"] = spoiled(record["identity"]["config"], attack)
        record["identity"]["task"] = spoiled(record["identity"]["task"], attack)
        record["machine"] = spoiled(record["machine"], attack)
        if "kept" in record["report"]:
            record["report"]["kept"] = {f"{name}{attack}": pair for name, pair in record["report"]["kept"].items()}
    data = gather(store, refs, promotion={"promoted": False, "reasons": [attack]}, pull={"a": attack}, title=attack)
    html = page(data)
    assert "<img" not in html
    assert attack in words(html)


def test_a_run_that_stopped_early_says_what_is_missing() -> None:
    store = Records()
    store.add("train-0", {}, {}, {"validation_accuracy": 0.99})
    store.add("prune-0", {}, {"model": "train-0"}, {"validation_accuracy": 0.97, "note": "nothing to cut"})
    text = words(page(gather(store, {"prune": ["prune-0"], "gate": ["gate-gone"]})))
    for part in ("No model was evaluated", "gate-gone", "No cascade in this run", "INT8 was not tried",
                 "nothing to cut", "Nothing was exported", "No architecture search",
                 "No registered model", "No verdict"):  # fmt: skip
        assert part in text, part
    assert words(page(gather(Records(), {})))


@pytest.mark.parametrize("kind", ["int8", "cascade"])
def test_a_run_without_int8_or_cascade_renders(kind: str) -> None:
    store, refs = sample()
    evaluation = store.record(refs["evaluate"][0])
    del evaluation["report"]["models"][kind], evaluation["report"]["ratios"][kind]
    if kind == "cascade":
        del evaluation["identity"]["parents"]["cascade"], store.kept[refs.pop("cascade")[0]]
    else:
        refused = {"status": "refused", "reason": "slower than fp32", "variants": [], "chosen": None}
        store.record(refs["export"][0])["report"]["int8"] = refused
    text = words(page(gather(store, refs)))
    assert ("No cascade in this run" if kind == "cascade" else "slower than fp32") in text


def test_a_failed_gate_shows_and_a_model_without_latency_is_named() -> None:
    store, refs = sample(is_passed=False)
    store.record(refs["evaluate"][0])["report"]["models"]["cascade"]["latency_ms"] = {"onnxruntime/b1": 0.5}
    text = words(page(gather(store, refs)))
    assert "The gate was not passed" in text
    assert "breaks the limit" in text
    assert "Cascade was not timed in ONNX Runtime, batch 32" in text


def test_write_report_leaves_the_page_and_its_picture(tmp_path: Path) -> None:
    store, refs = sample()
    data = write_report(store, refs, tmp_path / "report" / "index.html", title="A title")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["index.html", "pareto.png"]
    assert "<title>A title</title>" in (tmp_path / "report" / "index.html").read_text()
    assert data.title == "A title"
