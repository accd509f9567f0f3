"""A stand-in for the module `tensorrt`: the names that 10.16 and 11.x share, and a record of what was asked.

It holds nothing that TensorRT 11 removed, so that code which needs an FP16 flag or a calibrator fails here.
`real` names the class that each class stands for; test_tensorrt_bindings.py compares them with the real bindings.
"""

from __future__ import annotations

import json
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class Flags(IntEnum):
    """Network flags."""

    STRONGLY_TYPED = 1


class FakeTensor:
    """An input of (batch, 3, 8, 8)."""

    real = "ITensor"
    name = "input"
    shape = (-1, 3, 8, 8)


class FakeNetwork:
    """One input of (batch, 3, 8, 8)."""

    real = "INetworkDefinition"

    def __init__(self, flags: int) -> None:
        self.flags = flags

    def get_input(self, index: int) -> FakeTensor:
        assert index == 0
        return FakeTensor()


class FakeProfile:
    """Remembers the shapes."""

    real = "IOptimizationProfile"

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self.shapes[input] = (min, opt, max)


class FakeTimingCache:
    """Grows by what was timed."""

    real = "ITimingCache"

    def __init__(self, known: bytes) -> None:
        self.asked_bytes = known

    def serialize(self) -> bytes:
        return self.asked_bytes + b"+timings"


class FakeConfig:
    """Remembers settings as `asked_…`; unknown attributes cannot be set."""

    real = "IBuilderConfig"

    __slots__ = (
        "asked_cache",
        "asked_flags",
        "asked_pools",
        "asked_profiles",
        "builder_optimization_level",
        "hardware_compatibility_level",
        "profiling_verbosity",
    )

    def __init__(self) -> None:
        self.asked_flags: list[str] = []
        self.asked_pools: dict[str, int] = {}
        self.asked_profiles: list[FakeProfile] = []
        self.asked_cache: FakeTimingCache | None = None

    def set_flag(self, flag: str) -> None:
        self.asked_flags.append(flag)

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        self.asked_pools[pool] = pool_size

    def add_optimization_profile(self, profile: FakeProfile) -> int:
        self.asked_profiles.append(profile)
        return len(self.asked_profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> FakeTimingCache:
        return FakeTimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: FakeTimingCache, ignore_mismatch: bool) -> bool:
        if cache.asked_bytes == FakeTensorRT.refused_timings:
            return False
        self.asked_cache = cache
        return True

    def get_timing_cache(self) -> FakeTimingCache | None:
        return self.asked_cache


#: What a version-compatible plan begins with here: the real one carries code that the runtime must be allowed to run.
HOST_CODE = b"CODE"


class FakeBuilder:
    """Builds an engine of seven bytes, or none."""

    real = "Builder"

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt

    def create_network(self, flags: int) -> FakeNetwork:
        self.trt.network = FakeNetwork(flags)
        return self.trt.network

    def create_builder_config(self) -> FakeConfig:
        self.trt.config = FakeConfig()
        return self.trt.config

    def create_optimization_profile(self) -> FakeProfile:
        return FakeProfile()

    def build_serialized_network(self, network: FakeNetwork, config: FakeConfig) -> bytes | None:
        assert network is self.trt.network
        assert config is self.trt.config
        is_compatible = "VERSION_COMPATIBLE" in config.asked_flags
        return HOST_CODE + self.trt.plan if is_compatible and self.trt.plan else self.trt.plan


class FakeParserError:
    """One complaint."""

    real = "ParserError"

    def __init__(self, said: str) -> None:
        self._said = said

    def desc(self) -> str:
        return self._said


class FakeParser:
    """Accepts every file, unless the fake has errors to tell."""

    real = "OnnxParser"

    def __init__(self, trt: FakeTensorRT) -> None:
        self._errors = trt.parse_errors
        self._trt = trt

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> FakeParserError:
        return FakeParserError(self._errors[index])

    def parse_from_file(self, model: str) -> bool:
        self._trt.parsed = model
        return not self._errors


class FakeContext:
    """Answers with twice the mean of every input, written through the addresses it was given."""

    real = "IExecutionContext"

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._shape[0], 2)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        import ctypes

        import numpy as np

        def view(name: str, shape: tuple[int, ...]) -> Any:
            pointer = ctypes.cast(self._addresses[name], ctypes.POINTER(ctypes.c_float))
            return np.ctypeslib.as_array(pointer, shape)

        means_B = view("input", self._shape).mean((1, 2, 3))
        view("logits", (self._shape[0], 2))[:] = 2 * means_B[:, None]
        return self._trt.is_running


class FakeInspector:
    """Tells three layers, the last one in float."""

    real = "EngineInspector"

    def get_engine_information(self, format: Any) -> str:
        layers = {"conv": "Half", "conv2": "Half", "output": "Float"}
        told = [{"Name": name, "Outputs": [{"Format/Datatype": kind}]} for name, kind in layers.items()]
        return json.dumps({"Layers": told})


class FakeEngine:
    """One input, one output, batches up to 4."""

    real = "ICudaEngine"

    num_io_tensors = 2

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def get_tensor_name(self, index: int) -> str:
        return ("logits", "input")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "input" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 3, 8, 8) if name == "input" else (-1, 2)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)]

    def create_execution_context(self, strategy: Any = None) -> FakeContext:
        return FakeContext(self._trt)

    def create_engine_inspector(self) -> FakeInspector:
        return FakeInspector()


class FakeRuntime:
    """Loads what the fake can load, and plans with code of their own only where that is allowed."""

    real = "Runtime"

    engine_host_code_allowed = False

    def __init__(self, trt: FakeTensorRT) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
        is_allowed = self.engine_host_code_allowed or not serialized_engine.startswith(HOST_CODE)
        return FakeEngine(self._trt) if self._trt.is_loadable and is_allowed else None


class FakeTensorRT:
    """The module.

    Attributes:
        parse_errors: What the parser complains of.
        plan: What the builder returns; None for a failed build.
        is_loadable: Whether engines deserialize.
        is_running: What execution returns.
        refused_timings: A timing cache of another GPU.
    """

    refused_timings: bytes | None = None

    __version__ = "10.16.1.11"
    NetworkDefinitionCreationFlag = Flags
    BuilderFlag = SimpleNamespace(VERSION_COMPATIBLE="VERSION_COMPATIBLE")
    MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")
    ProfilingVerbosity = SimpleNamespace(DETAILED="DETAILED")
    HardwareCompatibilityLevel = SimpleNamespace(NONE="none", AMPERE_PLUS="ampere", SAME_COMPUTE_CAPABILITY="same")
    LayerInformationFormat = SimpleNamespace(JSON="JSON")
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")

    class Logger:
        """Silent."""

        WARNING = 2

        def __init__(self, severity: int) -> None:
            self.severity = severity

    def __init__(self, *, parse_errors: tuple[str, ...] = (), plan: bytes | None = b"ENGINE!") -> None:
        self.parse_errors, self.plan = parse_errors, plan
        self.is_loadable = self.is_running = True
        self.parsed = ""
        self.network: Any = None
        self.config: Any = None

    def Builder(self, logger: Any) -> FakeBuilder:
        return FakeBuilder(self)

    def OnnxParser(self, network: Any, logger: Any) -> FakeParser:
        return FakeParser(self)

    def Runtime(self, logger: Any) -> FakeRuntime:
        return FakeRuntime(self)
