"""Packages with engines for several kinds of GPU, each from an export of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.core.model import CorruptModel
from compress.core.stage import Ref
from compress.store import LocalStore
from deploy.description import read_package
from deploy.package import build_package
from deploy.pull import check_package
from deploy.triton import prepare
from tests.deploy.stored_run import put, put_engine, put_run
from tests.deploy.test_triton import parsed


class Made:
    """A small run in a store, and more exports of its student."""

    def __init__(self, root: Path) -> None:
        self.root, self.store = root, LocalStore(root / "store")
        self.refs = put_run(self.store, root / "files")

    def engine(self, capability: str, **more: Any) -> Ref:
        return put_engine(self.store, self.root / "files", self.refs["prune"], capability, **more)

    def package(self, *engines: Ref, export: str = "") -> Path:
        refs = {part: self.refs[stage] for part, stage in (("gate", "gate"), ("evaluation", "evaluate"))}
        refs |= {"export": export or self.refs["export"], "cascade": ""}
        build_package(self.store, self.root / "package", refs, name="toy", engines=engines)
        return self.root / "package"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def config_of(package: Path) -> Any:
    return parsed((package / "toy_tensorrt" / "config.pbtxt").read_text())


@pytest.mark.parametrize("is_mine", [False, True])
def test_engines_of_two_exports_are_one_model_that_a_server_takes_by_its_gpu(made: Made, is_mine: bool) -> None:
    """The export that is promoted may hold one of the engines, or none."""
    older, newer = made.engine("8.6", max_batch=16), made.engine("9.0")
    package = made.package(newer, export=older) if is_mine else made.package(older, newer)
    named = [newer] if is_mine else sorted([older, newer])
    check_package(package)
    assert read_package(package)["refs"]["engines"] == named
    assert [json.loads((package / f"{ref}.json").read_text())["ref"] for ref in named] == named
    assert not list(package.glob("toy/source/files/*"))
    prepare(package, version=3, also=["tensorrt"])
    check_package(package)
    config = config_of(package)
    assert dict(config.cc_model_filenames) == {"8.6": "model.8.6.plan", "9.0": "model.9.0.plan"}
    assert config.max_batch_size == 16, "what both engines take"
    plans = {path.name: path.read_bytes() for path in (package / "toy_tensorrt" / "3").iterdir()}
    assert plans == {"model.8.6.plan": b"engine for 8.6 NONE", "model.9.0.plan": b"engine for 9.0 NONE"}


def test_an_engine_for_one_kind_of_gpu_stands_beside_one_for_all_others(made: Made) -> None:
    package = made.package(made.engine("8.0", level="AMPERE_PLUS"), made.engine("9.0"))
    prepare(package, version=1, also=["tensorrt"])
    assert dict(config_of(package).cc_model_filenames) == {"9.0": "model.9.0.plan"}
    assert (package / "toy_tensorrt" / "1" / "model.plan").read_bytes() == b"engine for 8.0 AMPERE_PLUS"


def test_an_entry_that_was_copied_from_another_machines_store_is_checked_and_joins(made: Made) -> None:
    other = LocalStore(made.root / "other")
    ref = put_engine(other, made.root / "files", made.refs["prune"], "9.0")
    shutil.copytree(other.folder(ref), made.store.folder(ref))
    package = made.package(ref)
    prepare(package, version=1, also=["tensorrt"])
    assert dict(config_of(package).cc_model_filenames) == {"9.0": "model.9.0.plan"}
    shutil.rmtree(package)
    (made.store.folder(ref) / "files" / "model.plan").write_bytes(b"cut")
    with pytest.raises(CorruptModel, match="was changed after it was saved"):
        made.package(ref)


def test_a_package_without_further_engines_says_nothing_of_them(made: Made) -> None:
    assert set(read_package(made.package())["refs"]) == {"export", "gate", "evaluation", "cascade"}


def test_two_engines_for_the_same_gpus_are_refused(made: Made) -> None:
    one = made.engine("8.6")
    again = made.engine("8.6", level="SAME_COMPUTE_CAPABILITY")
    for engines, export in (((one, again), ""), ((one, one), ""), ((one,), one)):
        with pytest.raises(ValueError, match=r"both hold an engine for GPUs of compute capability 8\.6: name one"):
            made.package(*engines, export=export)
    wide = [made.engine(capability, level="AMPERE_PLUS") for capability in ("8.0", "9.0")]
    with pytest.raises(ValueError, match="both hold an engine for all GPUs from Ampere on: name one of them"):
        made.package(*wide)
    assert not (made.root / "package").exists(), "nothing was written"


def test_what_holds_no_engine_is_refused_with_the_reason_why(made: Made) -> None:
    with pytest.raises(
        ValueError, match=r"holds no engine \(a stand-in\): leave it out, or export where such a GPU is"
    ):
        made.package(made.engine("9.0"), made.engine(""))
    assert not (made.root / "package").exists()


def test_an_engine_of_another_model_is_refused(made: Made) -> None:
    other = put_engine(made.store, made.root / "files", made.refs["train"], "9.0")
    distilled = put(made.store, "distill", {"model": made.refs["prune"]}, {})
    for ref in (other, distilled, made.refs["prune"]):
        with pytest.raises(
            ValueError, match=rf"{ref} is no export of {made.refs['prune']}.*: export {made.refs['prune']}"
        ):
            made.package(ref)
    assert not (made.root / "package").exists()


def test_an_engine_that_does_not_say_for_which_gpu_it_is_is_refused(made: Made) -> None:
    nameless, plan = made.root / "model.plan.json", made.root / "model.plan"
    nameless.write_text("{}")
    plan.write_bytes(b"engine")
    files = {"model.plan": plan, "model.plan.json": nameless}
    ref = put(made.store, "export", {"model": made.refs["prune"]}, {}, files=files, config={"seed": 1})
    with pytest.raises(ValueError, match="names no compute capability: build the engine again on a GPU"):
        made.package(made.engine("9.0"), ref)
    assert not (made.root / "package").exists()
