"""`secateur list | describe | run | study | show | alias`, read from the families and stages, and plugins' commands."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from compress.core.docstrings import attribute_docs
from compress.core.registry import FAMILIES, Card, Family, UnknownName

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Prune, search, distil, quantize and measure vision models.",
)
runner = typer.Typer(no_args_is_help=True, help="Run one stage; finished work is found, not done again.")
app.add_typer(runner, name="run")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Store = Annotated[Path, typer.Option(envvar="SECATEUR_STORE", help="Directory of the local store.")]
DEFAULT_STORE = Path(".secateur/store")
DEFAULT_STUDIES = Path(".secateur/studies")
#: Entry points of this group are commands: a Typer app, or a function.
COMMANDS = "secateur.commands"


@app.command("list")
def list_pieces(
    family: Annotated[str, typer.Argument(help="A family, or nothing for all.")] = "", as_json: Json = False
) -> None:
    """List the pieces, of one family or of all."""
    from compress import catalogue

    catalogue.load()
    chosen = [_family(family)] if family else list(FAMILIES.values())
    if as_json:
        _print_json({one.name: {name: one[name].summary for name in one} for one in chosen})
        return
    from rich.table import Table

    table = Table("family", "piece", "what", "idea", box=None, pad_edge=False)
    for one in chosen:
        for name in one:
            table.add_row(one.name, name, one[name].summary, one[name].idea)
    _console().print(table)


@app.command()
def describe(name: str, as_json: Json = False) -> None:
    """Describe a piece or stage: what it does and which options it takes."""
    from compress import catalogue

    catalogue.load()
    cards = [family[name] for family in FAMILIES.values() if name in family]
    if not cards:
        raise UnknownName.among("piece", name, {piece for family in FAMILIES.values() for piece in family})
    if as_json:
        _print_json([_card_json(card) for card in cards])
        return
    for card in cards:
        console = _console()
        console.print(f"[bold]{card.family} {card.name}[/bold]  {card.paper}")
        console.print(inspect.getdoc(card.function) or "", markup=False)
        for option, default in _card_json(card)["options"].items():
            console.print(f"  {option} = {default!r}", markup=False)


@app.command()
def show(entry: str, store: Store = DEFAULT_STORE, as_json: Json = False) -> None:
    """Show what is recorded of an entry, named by alias, name or the beginning of its name."""
    from compress.store import LocalStore

    local = LocalStore(store)
    record = local.record(local.resolve(entry))
    if as_json:
        _print_json(record)
        return
    _console().print(f"[bold]{record['ref']}[/bold]  {record['created']}, {record['seconds']:.1f} s")
    _print_report(record)


@app.command()
def alias(entry: str, name: str, store: Store = DEFAULT_STORE) -> None:
    """Let NAME stand for ENTRY."""
    from compress.store import LocalStore

    local = LocalStore(store)
    local.alias(local.resolve(entry), name)


@app.command()
def study(  # noqa: PLR0913 - one parameter an option
    name: Annotated[str, typer.Argument(help="Number or name of a study, or nothing to list all.")] = "",
    preset: Annotated[str, typer.Option(help="quick: two cores, 15 minutes. full: a GPU, in slices.")] = "quick",
    workspace: Annotated[Path, typer.Option(help="Folder for cells and checkpoints.")] = DEFAULT_STUDIES,
    only: Annotated[list[str] | None, typer.Option(help="Measure these cells alone, for example 'tp_*'.")] = None,
    slice_minutes: Annotated[float, typer.Option(help="Stop after so long; the same call goes on.")] = 0.0,
    threads: Annotated[int, typer.Option(help="CPU threads of torch; 0 leaves them.")] = 0,
    go_on: Annotated[bool, typer.Option("--continue", help="Take committed cells as measured.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write down what is measured, measure nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Run a study: a grid of measurements whose verdict is written into its README; or list all."""
    from compress.studies import command

    if not name:
        command.show_all(workspace, as_json=as_json)
        return
    if threads:
        command.use_threads(threads)
    if not report:
        progress = command.measure(
            name, preset, workspace, only=only or (), slice_minutes=slice_minutes, is_continued=go_on
        )
        if not progress.is_complete:
            raise typer.Exit(command.explain(progress))
    command.conclude(name, preset, workspace, as_json=as_json)


def _family(name: str) -> Family[Any]:
    plain = name.removesuffix("s")
    for known in (name, plain, f"{name.removesuffix('ies')}y", "criterion" if name == "criteria" else name):
        if known in FAMILIES:
            return FAMILIES[known]
    raise UnknownName.among("family", name, FAMILIES)


def _card_json(card: Card[Any]) -> dict[str, Any]:
    options = {name: option.default for name, option in card.options.items()}
    if "config" in card.extra:
        default = card.extra["config"]()
        options = {item.name: _shown(getattr(default, item.name)) for item in dataclasses.fields(default)}
    facts = {"family": card.family, "name": card.name, "summary": card.summary, "options": options}
    return {**facts, "paper": card.paper, "idea": card.idea, "study": card.study, "needs": list(card.needs)}


def _shown(value: Any) -> Any:
    return value.name if hasattr(value, "card") and not value.options else getattr(value, "as_json", lambda: value)()


def _help(said: str | None, default: Any) -> str:
    """Return what stands behind an option: what its class says, and the default as one would write it."""
    shown = _shown(default)
    worded = shown if isinstance(shown, str) and shown else json.dumps(shown)
    return f"{said or ''} Default: {worded}.".strip()


def add_plugin_commands(to: typer.Typer = app) -> None:
    """Give `secateur` the commands that installed packages announce in the group `secateur.commands`."""
    known = {command.name for command in to.registered_commands} | {group.name for group in to.registered_groups}
    for point in sorted(metadata.entry_points(group=COMMANDS), key=lambda point: point.name):
        if point.name in known:
            continue
        try:
            command = point.load()
        except Exception as error:
            print(f"secateur: the command {point.name!r} is left out: {error}", file=sys.stderr)
            continue
        if isinstance(command, typer.Typer):
            to.add_typer(command, name=point.name)
        else:
            to.command(point.name)(command)


def add_stage_commands() -> None:
    """Give `secateur run` one command a registered stage, its options read from the configuration."""
    from compress import catalogue
    from compress.core.stage import STAGES

    catalogue.load()
    for name in STAGES:
        runner.command(name, help=STAGES[name].summary)(_stage_command(STAGES[name]))


def _stage_command(card: Card[Any]) -> Callable[..., None]:
    config, roles, optional = (card.extra.get(key, ()) for key in ("config", "roles", "optional_roles"))
    assert isinstance(config, type)
    default = config()
    names, docs = [item.name for item in dataclasses.fields(default)], attribute_docs(config)
    parameters = [
        *(_parameter(role, str, ..., "Entry, alias or folder of a model.") for role in roles),
        *(_parameter(role, str, "", "Entry, alias or folder of a model; optional.") for role in optional),
        _parameter("task", str, "", "Task: a name or JSON.", envvar="SECATEUR_TASK"),
        *(_parameter(name, str, "", _help(docs.get(name), getattr(default, name))) for name in names),
        _parameter("config", str, "", "The whole configuration as JSON; options above win."),
        _parameter("save_as", str, "", "Alias for the result."),
        _parameter("latency", bool, True, "Measure the result's paired latency against its parent."),
        _parameter("store", Path, DEFAULT_STORE, "Directory of the local store.", envvar="SECATEUR_STORE"),
        _parameter("as_json", bool, False, "Print the record as JSON.", flag="--json"),
    ]
    if card.extra.get("is_parallel"):
        parameters.append(_parameter("processes", int, 1, "Processes on this machine; the result has the same name."))

    def command(**given: Any) -> None:
        if given.get("processes", 1) > 1 and "WORLD_SIZE" not in os.environ:
            _launch(given["processes"])
        parents = {role: given[role] for role in (*roles, *optional) if given[role]}
        changed = _object("--config", given["config"] or "{}") | {
            name: _value(given[name]) for name in names if given[name]
        }
        _run(card.name, changed, parents, given)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, kind: type, default: Any, text: str, *, envvar: str = "", flag: str = "") -> Any:
    flags = [flag] if flag else [f"--{name.replace('_', '-')}"]
    if kind is bool and not flag:
        flags = [f"{flags[0]}/--no-{name.replace('_', '-')}"]
    option = typer.Option(*flags, help=text, envvar=envvar or None, show_default=False)
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=empty if default is ... else default,
        annotation=Annotated[kind, option],
    )


def _object(flag: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{flag} {text!r} is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f'{flag} is a JSON object such as {{"epochs": 3}}; got {text!r}.')
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _launch(num_processes: int) -> NoReturn:
    """Become torchrun, which starts this command once a process."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    os.execv(sys.executable, [*torchrun, "-m", "compress.cli", *sys.argv[1:]])


def _run(stage: str, config: dict[str, Any], parents: dict[str, str], given: dict[str, Any]) -> None:
    from compress.core.model import Model
    from compress.core.stage import STAGES, Ref
    from compress.run import import_model, run_stage, task_of
    from compress.store import LocalStore
    from compress.train.processes import join, leave

    store = LocalStore(given["store"])
    parsed = STAGES[stage].extra["config"].from_json(config)
    task = task_of(given["task"]) if given["task"] else None
    refs: dict[str, Ref] = {}
    for role, name in parents.items():
        is_folder = (Path(name) / "manifest.json").is_file()
        refs[role] = import_model(Model.load(Path(name)), store) if is_folder else store.resolve(name)
    outcome = run_stage(stage, parsed, refs, task, store)
    is_first = join().is_first
    leave()
    if not is_first:
        return
    if given["save_as"]:
        store.alias(outcome.entry.ref, given["save_as"])
    record = store.record(outcome.entry.ref)
    speedups: dict[str, Any] = {}
    if given["latency"] and outcome.entry.folder and "model" in refs:
        from compress.measure.compare import compare_entries

        speedups = compare_entries(store.get(refs["model"]), outcome.entry)
    if given["as_json"]:
        _print_json({**record, "is_reused": outcome.is_reused, "paired_latency": speedups})
        return
    how = "reused" if outcome.is_reused else f"{outcome.seconds:.1f} s"
    _console().print(f"[bold]{record['ref']}[/bold]  {how}")
    _print_report(record)
    for where, ratio in speedups.items():
        interval = f"95 % interval {ratio['low']:.2f} to {ratio['high']:.2f}"
        _console().print(f"  {where}: {ratio['value']:.2f}x the parent's speed ({interval})", markup=False)


def _print_report(record: dict[str, Any]) -> None:
    for key, value in record["report"].items():
        text = json.dumps(value)
        if isinstance(value, float):
            text = f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
        _console().print(f"  {key}: {text if len(text) < 200 else f'{text[:200]}… (--json shows all)'}", markup=False)
    for name, facts in record["files"].items():
        _console().print(f"  {name}  {facts['bytes']:,} bytes", markup=False)


def _print_json(data: Any) -> None:
    print(json.dumps(data, indent=1, sort_keys=True, default=str))


def _console() -> Any:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _fail(error: Exception) -> NoReturn:
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    extra = "; install the extra that brings it: pip install 'secateur[all]'" if isinstance(error, ImportError) else ""
    print(f"secateur: {message}{extra}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Entry point of the `secateur` command."""
    typed = " ".join(os.environ.get(name, "") for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"))
    words = sys.argv[1:] + typed.split()
    try:
        if "run" in words:
            add_stage_commands()
        add_plugin_commands()
        app()
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("SECATEUR_DEBUG"):
            raise
        _fail(error)


if __name__ == "__main__":
    main()
