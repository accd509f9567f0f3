"""What `deploy` asks of TensorRT exists in the real bindings of 10.16 and of 11.4, and the fake is like them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from deploy.export.engine_from_onnx import HARDWARE_LEVELS
from tests.deploy.export import fake_tensorrt
from tests.deploy.export.fake_tensorrt import FakeTensorRT
from tests.deploy.export.tensorrt_surface import ROOT, VERSIONS, missing, surface
from tests.deploy.export.tensorrt_usage import Use, Walk, objections

FILES = sorted(path for folder in ("export", "runtime") for path in (ROOT / "deploy" / folder).glob("*.py"))
CHOSEN = {"HardwareCompatibilityLevel": HARDWARE_LEVELS}
#: Names that TensorRT 11 removed; using one of them would tie the project to 10.x.
REMOVED = ("BuilderFlag.FP16", "BuilderFlag.INT8", "NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "IInt8Calibrator")


@pytest.fixture(scope="module", params=VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := missing(request.param):
        pytest.skip(reason)
    return surface(request.param, tmp_path_factory.mktemp(f"tensorrt-{request.param}"))


def walked(bindings: dict[str, Any], *paths: Path) -> set[Use]:
    return Walk(bindings, CHOSEN).files(paths or FILES)


def test_every_name_that_is_used_exists_and_takes_these_arguments(
    bindings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    uses = walked(bindings)
    assert [said for use in sorted(uses) if (said := objections(use, bindings))] == []
    names = sorted({use.name for use in uses})
    with capsys.disabled():
        print(f"\n{len(names)} names of TensorRT {bindings['version']} are used: {', '.join(names)}")
    for name in (
        "Builder",
        "BuilderFlag.VERSION_COMPATIBLE",
        "EngineInspector.get_engine_information",
        "HardwareCompatibilityLevel.AMPERE_PLUS",
        "IBuilderConfig.builder_optimization_level",
        "IExecutionContext.execute_async_v3",
        "IOptimizationProfile.set_shape",
        "ITimingCache.serialize",
        "OnnxParser.parse_from_file",
        "ParserError.desc",
        "Runtime.engine_host_code_allowed",
    ):
        assert name in names, "the walk lost its way"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("trt.Bilder(1)", "has no Bilder"),
        ("trt.BuilderFlag.FASTER", "has no BuilderFlag.FASTER"),
        ("trt.Builder(1).create_netwrk()", "has no Builder.create_netwrk"),
        ("trt.Builder(1).create_network(1, 2)", "Builder.create_network of TensorRT"),
        ("trt.Builder(1).create_network(kind=2)", "Builder.create_network of TensorRT"),
        ("trt.Builder(1).create_builder_config().level = 3", "has no IBuilderConfig.level"),
        ("trt.Builder(1).create_builder_config().set_flag()", "IBuilderConfig.set_flag of TensorRT"),
        ("trt.Builder()", "Builder of TensorRT"),
    ],
)
def test_a_name_that_does_not_exist_is_found(bindings: dict[str, Any], tmp_path: Path, code: str, said: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(f"def one(trt):\n    {code}\n")
    found = "\n".join(objections(use, bindings) for use in walked(bindings, path))
    assert said in found
    assert "wrong.py:2" in found


def test_objects_are_followed_through_functions(bindings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "far.py"
    path.write_text(
        "def maker(trt):\n    return trt.Builder(trt.Logger())\n\n\n"
        "def user(configuration):\n    configuration.set_flagg(1)\n\n\n"
        "def main(trt):\n    builder = maker(trt)\n    user(configuration=builder.create_builder_config())\n"
    )
    assert "IBuilderConfig.set_flagg" in {use.name for use in walked(bindings, path)}


def test_nothing_is_used_that_tensorrt_11_removed(bindings: dict[str, Any]) -> None:
    assert not {use.name for use in walked(bindings)} & set(REMOVED)
    has_them = "FP16" in bindings["classes"]["BuilderFlag"]["members"]
    assert has_them is bindings["version"].startswith("10."), "the two versions differ where they are known to"


def fakes() -> dict[str, type]:
    """Return the fake's classes by the name of what they stand for."""
    found = [value for value in vars(fake_tensorrt).values() if isinstance(value, type)]
    return {real: fake for fake in found if isinstance(real := vars(fake).get("real"), str)}


def public(thing: type) -> list[str]:
    return [name for name in vars(thing) if not name.startswith(("_", "asked_")) and name != "real"]


def test_the_fakes_classes_have_the_real_methods(bindings: dict[str, Any]) -> None:
    known = {fake.__name__: real for real, fake in fakes().items()}
    assert len(known) >= 11
    wrong = []
    for real, fake in fakes().items():
        members = bindings["classes"][real]["members"]
        for name in public(fake):
            if name not in members:
                wrong.append(f"{real} has no {name}")
            elif inspect.isfunction(function := vars(fake)[name]):
                signature = inspect.signature(function)
                mine = [parameter for parameter in signature.parameters if parameter != "self"]
                theirs = [[one["name"] for one in each["parameters"]] for each in members[name]["overloads"]]
                if mine not in theirs:
                    wrong.append(f"{real}.{name} takes {theirs}, the fake {mine}")
                returned = str(signature.return_annotation).split(" | ")[0]
                if returned in known and known[returned] != members[name]["overloads"][0]["returns"]:
                    wrong.append(f"{real}.{name} returns {members[name]['overloads'][0]['returns']}")
    assert wrong == []


def test_the_fakes_module_has_the_real_names(bindings: dict[str, Any]) -> None:
    trt = FakeTensorRT()
    for name in [name for name in dir(trt) if name[0].isupper()]:
        assert name in bindings["names"]
        value = getattr(trt, name)
        if name in bindings["classes"] and name not in fakes() and not inspect.ismethod(value):
            mine = [member for member in vars(value) if member.isupper() and not member.startswith("_")]
            assert mine, name
            assert set(mine) <= set(bindings["classes"][name]["members"]), name


def test_the_fake_has_everything_that_is_used(bindings: dict[str, Any]) -> None:
    trt, stand_ins, lacking = FakeTensorRT(), fakes(), []
    for use in sorted(walked(bindings)):
        owner, _, name = use.name.rpartition(".")
        thing: Any = trt if not owner else stand_ins.get(owner, getattr(trt, owner, None))
        if not hasattr(thing, name):
            lacking.append(use.name)
    assert lacking == []
