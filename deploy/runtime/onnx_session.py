"""Opening an ONNX file with ONNX Runtime: fixed threads, no surprise about the provider, and no torch."""

from __future__ import annotations

from typing import Any

CPU = "CPUExecutionProvider"
WARNINGS_OFF = 3


class ProviderMissing(RuntimeError):
    """ONNX Runtime fell back to another execution provider than the one asked for."""


def session_from_bytes(graph: bytes, *, num_threads: int = 1, provider: str = CPU, is_optimized: bool = True) -> Any:
    """Return an `onnxruntime.InferenceSession` whose first provider is `provider`.

    Threads do not spin while they wait: sessions that take turns would steal each other's cores.

    Raises:
        ProviderMissing: ONNX Runtime chose another provider; says which ones it has.
    """
    import onnxruntime as ort

    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = WARNINGS_OFF
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not is_optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    available = ort.get_available_providers()
    if provider not in available:
        raise ProviderMissing(f"this ONNX Runtime has no {provider}; it has {', '.join(available)}.")
    session = ort.InferenceSession(graph, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ProviderMissing(
            f"asked ONNX Runtime for {provider} and got {session.get_providers()[0]}: "
            f"install the libraries that {provider} needs, or ask for one of {', '.join(available)}."
        )
    return session
