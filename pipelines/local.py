"""`python -m pipelines.local --data digits`: run the whole pipeline on this machine, without a cluster.

The same components as in a cluster, each in its own process. Everything they print goes to
`<workspace>/dag.log`; the terminal shows one line a stage, a table, and where to look next.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import preset, summary
from pipelines.watch import Step, Watch

#: Tasks that every run must have ended, besides one gate a budget; the first task opens the run.
EXPECTED = {
    "compress": ("resolve", "train", "report", "close_run"),
    "nightly": ("tonight", "train", "report", "close_run"),
}
#: Tasks of a night that had nothing to do.
IDLE = ("tonight", "close_run")


class DagError(RuntimeError):
    """A task failed, or Kubeflow left one out without a word."""


def main(arguments: list[str] | None = None) -> int:
    """Run the pipeline; return the exit status."""
    options = _options(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    workspace = Path(options.workspace or f".secateur/{options.data}").absolute()
    start = time.monotonic()
    try:
        settings = preset.load(options.preset or options.data)
        given = preset.arguments(settings) | {"workspace": str(workspace), "tracking_uri": options.tracking_uri}
        given |= {"run_name": options.run_name or f"compress {options.data}"}
        if options.teacher:
            given["teacher"] = options.teacher
        watch = run(given, workspace, console, options.pipeline)
    except (DagError, ValueError) as error:
        console.print(f"[bold red]failed[/bold red] after {time.monotonic() - start:.0f} s")
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped; finished stages are kept, and the same command goes on from there")
        return 130
    _conclude(watch, workspace, console, options.tracking_uri, time.monotonic() - start)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.local", description=__doc__)
    parser.add_argument("--data", default="digits", help=f"preset to run: {', '.join(preset.names())}")
    parser.add_argument("--preset", default="", help="JSON file to use in place of the data's preset")
    parser.add_argument("--pipeline", default="compress", choices=sorted(EXPECTED), help="which one to run")
    parser.add_argument("--workspace", default="", help="folder for everything; default .secateur/DATA")
    parser.add_argument("--teacher", default="", help="entry or registered version to use as the teacher")
    parser.add_argument("--tracking-uri", default="", help="MLflow server; default: a file in the workspace")
    parser.add_argument("--run-name", default="", help="name of the run in MLflow")
    return parser.parse_args(arguments)


def run(given: Mapping[str, Any], workspace: Path, console: Console, pipeline: str = "compress") -> Watch:
    """Run a pipeline in a process of its own and show its steps.

    Args:
        given: Arguments of the pipeline.
        workspace: Folder for the log and for Kubeflow's files.
        console: Where to show them.
        pipeline: Name of its module in `pipelines`.

    Raises:
        DagError: Says which task failed, why, and where the log lies.
    """
    with _sole_user(workspace):
        return _run(given, workspace, console, pipeline)


@contextlib.contextmanager
def _sole_user(workspace: Path) -> Iterator[None]:
    """Hold the workspace; a second run in it would delete the first one's files."""
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another run is using {workspace}: wait for it, or choose another workspace.") from error
        yield


def _run(given: Mapping[str, Any], workspace: Path, console: Console, pipeline: str) -> Watch:
    folder = workspace / "dag"
    if "python3" in str(workspace):
        raise ValueError(f"{workspace}: kfp.local rewrites the word python3 in paths; choose another workspace.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "arguments.json").write_text(json.dumps(given, indent=1, sort_keys=True))
    log = workspace / "dag.log"
    with console.status(EXPECTED[pipeline][0]) as status:
        watch = _watch(console, status)
        returned = _listen(folder, log, watch, pipeline)
    if failed := watch.failed:
        raise DagError(_story(failed, log))
    if returned or watch.swallowed:
        why = watch.swallowed[0] if watch.swallowed else f"exit status {returned}"
        raise DagError(f"the pipeline broke outside of a stage: {why}\nAll it said: {log}")
    if missing := _missing(watch, given, pipeline):
        raise DagError(f"the pipeline ended without {', '.join(missing)}.\nAll it said: {log}")
    return watch


def _listen(folder: Path, log: Path, watch: Watch, pipeline: str) -> int:
    from deploy.worker import serving

    with serving() as worker:
        return _run_dag(folder, log, watch, worker, pipeline)


def _run_dag(folder: Path, log: Path, watch: Watch, worker: Mapping[str, str], pipeline: str = "compress") -> int:
    command = [sys.executable, "-u", "-m", "pipelines.dag", str(folder), pipeline]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "80"} | dict(worker)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout is not None
    try:
        with log.open("w") as file:
            for line in process.stdout:
                file.write(line)
                file.flush()
                watch.read(line)
        return process.wait()
    except BaseException:
        _stop(process)
        _close(folder, watch)
        raise


def _stop(process: subprocess.Popen[str]) -> None:
    """End the pipeline's process and every process that it started."""
    import psutil

    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.kill()
    process.wait()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    for child in psutil.wait_procs(children, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _close(folder: Path, watch: Watch) -> None:
    """Close the parent run of a pipeline whose exit task had no chance."""
    from deploy.conclude import close_run

    given = json.loads((folder / "arguments.json").read_text())
    openers = {names[0] for names in EXPECTED.values()}
    opened = [step.facts.get("pipeline_run") for step in watch.steps if step.stage in openers and not step.is_failed]
    if opened and opened[0] and not watch.of("close_run"):
        where = {"workspace": given["workspace"], "tracking_uri": given["tracking_uri"]}
        close_run(opened[0], **where, status="CANCELLED", error="stopped by hand")


def _watch(console: Console, status: Any) -> Watch:
    def started(step: Step) -> None:
        status.update(step.stage)

    def moved(line: str) -> None:
        status.update(line)
        if not console.is_terminal:
            console.print(f"    {line}", markup=False)

    def ended(step: Step) -> None:
        console.print(line_of(step), markup=False)

    return Watch(started, moved, ended)


def line_of(step: Step) -> str:
    """Return the line that is shown for a step."""
    did = "FAILED" if step.is_failed else "off" if step.is_off else "reused" if step.facts.get("reused") else "ran"
    return f"  {step.stage:<15} {step.label:<12} {did:<7} {step.seconds:6.1f} s  {step.facts.get('ref', '')}".rstrip()


def is_idle(watch: Watch) -> bool:
    """Return whether this was a night that had nothing to do."""
    return any(step.facts.get("is_new") is False for step in watch.of("tonight"))


def _missing(watch: Watch, given: Mapping[str, Any], pipeline: str) -> list[str]:
    if is_idle(watch):
        return [stage for stage in IDLE if not watch.of(stage)]
    missing = [stage for stage in EXPECTED[pipeline] if not watch.of(stage)]
    judged = {step.label for step in watch.of("gate")}
    return missing + [f"gate of {budget['name']}" for budget in given["budgets"] if budget["name"] not in judged]


def _story(step: Step, log: Path) -> str:
    of = f" ({step.label})" if step.label else ""
    tail = "\n".join(f"  | {line}" for line in list(step.tail)[-12:])
    return f"{step.stage}{of}: {step.error}\n\nIts last lines:\n{tail}\n\nAll it said: {log}"


def _conclude(watch: Watch, workspace: Path, console: Console, tracking_uri: str, seconds: float) -> None:
    from deploy.tracking import ui_command

    console.print()
    for step in watch.of("tonight"):
        console.print(f"tonight   {step.facts.get('verdict', '')}", markup=False)
    if not is_idle(watch):
        console.print(summary.table(summary.rows(watch)))
    for line in summary.int8_choices(watch):
        console.print(f"INT8      {line}", markup=False)
    for step in watch.of("promote"):
        console.print(f"promoted  {step.facts.get('verdict', '')}", markup=False)
    reused = sum(bool(step.facts.get("reused")) and not step.is_off for step in watch.steps)
    console.print(f"{len(watch.steps)} tasks in {seconds:.0f} s, {reused} reused")
    for step in watch.of("report"):
        console.print(f"report    {step.facts['path']}", markup=False)
    program = f"{Path(sys.executable).parent}{os.sep}"
    console.print(f"entries   {program}secateur show NAME --store {workspace / 'store'}", markup=False, soft_wrap=True)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace / 'mlflow.db'}"
    command = ui_command(uri)
    program = program if command.startswith("mlflow ") else ""
    console.print(f"MLflow    {program}{command}", markup=False)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
