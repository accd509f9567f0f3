"""What the machine did while a stage ran, sampled without MLflow and logged under its system metrics' names."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

#: (name, milliseconds since 1970, value)
Sample = tuple[str, int, float]

#: Samples of one metric that are kept; older ones are thinned out.
MOST = 200


class Sampler:
    """A thread that reads processor, memory and GPU every few seconds.

    Args:
        interval_s: Between two readings; doubles when a run gets long.
    """

    def __init__(self, interval_s: float = 2.0) -> None:
        self.interval_s = interval_s
        self._readings: list[tuple[int, dict[str, float]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="machine", daemon=True)

    def start(self) -> Sampler:
        """Begin sampling."""
        self._thread.start()
        return self

    def stop(self) -> list[Sample]:
        """End sampling and return what was seen; at least one reading."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        with contextlib.suppress(Exception):
            self._read()
        return [(f"system/{name}", when, value) for when, values in self._readings for name, value in values.items()]

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            try:
                self._read()
            except Exception:
                return
            if len(self._readings) >= MOST:
                self._readings = self._readings[::2]
                self.interval_s *= 2

    def _read(self) -> None:
        self._readings.append((int(time.time() * 1000), dict(_host()) | dict(_gpus())))


def _host() -> Iterator[tuple[str, float]]:
    import psutil

    memory = psutil.virtual_memory()
    yield "cpu_utilization_percentage", float(psutil.cpu_percent())
    yield "system_memory_usage_megabytes", memory.used / 1e6
    yield "system_memory_usage_percentage", float(memory.percent)
    yield "process_memory_megabytes", psutil.Process().memory_info().rss / 1e6


def _gpus() -> Iterator[tuple[str, float]]:
    library = _nvml()
    for index in range(library.nvmlDeviceGetCount() if library else 0):
        device = library.nvmlDeviceGetHandleByIndex(index)
        yield f"gpu_{index}_utilization_percentage", float(library.nvmlDeviceGetUtilizationRates(device).gpu)
        yield f"gpu_{index}_memory_usage_megabytes", library.nvmlDeviceGetMemoryInfo(device).used / 1e6
        yield f"gpu_{index}_power_usage_watts", library.nvmlDeviceGetPowerUsage(device) / 1000


def _nvml() -> Any:
    """Return the initialised NVML binding, or None without one or without a GPU."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:
        return None
    return pynvml
