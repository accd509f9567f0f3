"""What the real TensorRT bindings offer: every class, method, argument and enum member, read without the libraries.

`make tensorrt-bindings` puts the bindings of each version into `.tensorrt-bindings/VERSION`. They are linked to three
libraries that a machine without TensorRT does not have; stand-ins of nine functions are enough to import them.
Run as a script inside such a process, this file prints the surface as JSON.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
VERSIONS = ("10.16.1.11", "11.4.0.106")
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
ENTRY_POINTS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
#: C++ names that the bindings' texts use where they should name the Python class.
ALIASES = {"nvonnxparser::IParserError": "ParserError"}
#: Documents names of enum members and the like, which are no part of what is offered.
PYTHONS_OWN = re.compile(r"__\w+__")
SIGNATURE = re.compile(r"(?:\d+\. )?(\w+)\((.*)\) -> (.+)")


def folder_of(version: str) -> Path:
    """Return where `make tensorrt-bindings` puts a version."""
    return Path(os.environ.get("SECATEUR_TENSORRT_BINDINGS", ROOT / ".tensorrt-bindings")) / version


def compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def missing(version: str) -> str:
    """Return why the surface of a version cannot be read here, or an empty string."""
    if sys.platform != "linux":
        return f"no bindings of TensorRT for {sys.platform}"
    if not (folder_of(version) / "tensorrt_bindings").is_dir():
        return f"no bindings of TensorRT {version}: run `make tensorrt-bindings`"
    return "" if compiler() else "no C compiler for the stand-ins of TensorRT's libraries"


@cache
def surface(version: str, folder: Path) -> dict[str, Any]:
    """Return what the bindings of `version` offer; stand-ins are compiled into `folder`."""
    major = version.split(".")[0]
    _compile_stand_ins(folder, major)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder_of(version))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _compile_stand_ins(folder: Path, major: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source, command = folder / "stand_in.c", compiler()
    assert command is not None
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in ENTRY_POINTS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{major}"
        subprocess.run(
            [command, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)], check=True
        )


def described(text: str | None) -> list[dict[str, Any]]:
    """Return the overloads that a docstring of pybind11 names: parameters without self, and the type returned."""
    found = []
    for line in (text or "").splitlines():
        match = SIGNATURE.fullmatch(line.strip())
        if match is None or match[2] == "*args, **kwargs":
            continue
        parts = [part for part in _split(match[2]) if not part.startswith("self:")]
        parameters = [{"name": part.split(":")[0].strip(), "is_optional": " = " in part} for part in parts]
        found.append({"parameters": parameters, "returns": _class_of(match[3])})
    return found


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _class_of(text: str) -> str:
    return ALIASES.get(text, text.split(" | ")[0].removeprefix("tensorrt_bindings.tensorrt."))


def _member(value: Any) -> dict[str, Any]:
    if isinstance(value, property):
        texts = (value.fget.__doc__ or "").strip().splitlines()
        returns = texts[0].partition("-> ")[2] if texts else ""
        return {"kind": "property", "is_settable": value.fset is not None, "returns": _class_of(returns)}
    if callable(value):
        return {"kind": "method", "overloads": described(value.__doc__)}
    return {"kind": "value"}


def _read() -> dict[str, Any]:
    import tensorrt_bindings as trt

    classes = {name: value for name, value in vars(trt).items() if isinstance(value, type)}
    return {
        "version": trt.__version__,
        "names": sorted(vars(trt)),
        "classes": {
            name: {
                "init": described(value.__init__.__doc__),  # type: ignore[misc]
                "members": {
                    member: _member(getattr(value, member))
                    for member in dir(value)
                    if not PYTHONS_OWN.fullmatch(member)
                },
            }
            for name, value in classes.items()
        },
    }


if __name__ == "__main__":
    json.dump(_read(), sys.stdout)
