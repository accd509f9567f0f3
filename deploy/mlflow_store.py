"""ModelStore over MLflow: a local store in front, runs, LoggedModels, registry, aliases and tags behind.

A result is safe before MLflow is asked: it lies in the local store, and a marker in `<root>/pending` says
that it still has to be pushed. What others made is found by the tag `secateur.ref`, downloaded and checked.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compress.core.layout import write_json
from compress.core.registry import UnknownName
from compress.core.stage import Entry, Ref, StageResult
from compress.store import LocalStore, full_disk_named
from deploy.tracking.connection import Patience, database_file, retrying
from deploy.tracking.destination import OFFLINE, Destination
from deploy.tracking.fetch import Stored, check_entry, download, locate, publish
from deploy.tracking.sampler import Sample, Sampler
from deploy.tracking.troubles import Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
log = logging.getLogger("secateur.mlflow")


class MlflowStore:
    """Entries in a local store, mirrored to MLflow.

    Args:
        local: Read first, written first.
        uri: Tracking and registry URI.
        experiment: Used when neither a parent run nor the environment decides it.
        parent_run: What `open_parent` returned; each entry becomes a child of this run.
        tags: Set on every run and model (kfp.run_id, say).
    """

    def __init__(
        self,
        local: LocalStore,
        uri: str,
        *,
        experiment: str = "secateur",
        parent_run: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.local = local
        self.destination = Destination.here(uri, experiment=experiment, parent_run=parent_run, tags=dict(tags or {}))
        self._samplers: dict[str, Sampler] = {}
        self._was_unreachable = False

    @property
    def uri(self) -> str:
        """Tracking and registry URI."""
        return self.destination.uri

    @property
    def pending(self) -> Path:
        """Folder of the markers of what still has to be pushed."""
        return self.local.root / "pending"

    def has(self, ref: Ref) -> bool:
        """Return whether the entry is there, locally or in MLflow."""
        return self.local.has(ref) or self._location(ref) is not None

    def get(self, ref: Ref) -> Entry:
        """Return an entry; one that only MLflow has is downloaded and checked first.

        Raises:
            KeyError: Nobody has it.
            CorruptModel: What was downloaded is not what was stored.
        """
        if not self.local.has(ref):
            self._fetch(ref)
        return self.local.get(ref)

    def record(self, ref: Ref) -> dict[str, Any]:
        """Return the entry's record (entry.json)."""
        if not self.local.has(ref):
            self._fetch(ref)
        return self.local.record(ref)

    def put(self, ref: Ref, record: Mapping[str, Any], result: StageResult, seconds: float) -> Entry:
        """Store a result locally, then push it; without MLflow it waits in `pending`.

        The marker is written first: from the moment on when the entry is there, a kill leaves it pending.
        """
        sampler = self._samplers.pop(ref, None) or Sampler()
        samples = sampler.stop()
        marker = {"ref": ref, "destination": self.destination.as_json(), "samples": samples}
        with full_disk_named(ref, self.local.root):
            write_json(self.pending / f"{ref}.json", marker)
        try:
            entry = self.local.put(ref, record, result, seconds)
        except BaseException:
            if not self.local.has(ref):
                (self.pending / f"{ref}.json").unlink(missing_ok=True)
            raise
        try:
            self._push(ref, self.destination, samples)
        except Unreachable as error:
            log.warning("%s %s is kept in %s. %s", error, ref, self.local.root, how_to_push(self))
        return entry

    def alias(self, ref: Ref, name: str) -> None:
        """Let `name` stand for `ref`; "model@alias" also in MLflow's registry.

        Raises:
            Unreachable: A registry alias was asked for and MLflow is away; the local alias is set.
        """
        self.local.alias(ref, name)
        if "@" in name:
            from deploy.tracking.registry import split_name

            model, alias = split_name(name)
            self._ask(lambda client: _registry_alias(client, self.destination, ref, model, alias))

    def resolve(self, name: str) -> Ref:
        """Return the entry that an alias, a name or its unique beginning stands for; the registry is asked last.

        Raises:
            UnknownName: Nothing here or in the registry is called so; offers the nearest name.
            ValueError: The registered version is no model of ours.
        """
        try:
            return self.local.resolve(name)
        except UnknownName:
            if "@" not in name:
                raise
            return self.registered(name)

    def registered(self, name: str) -> Ref:
        """Return the entry that "model@alias" stands for in the registry, whatever is remembered of it here.

        Raises:
            UnknownName: The registry has no such model or alias; offers the nearest name.
            ValueError: The registered version is no model of ours.
            Unreachable: MLflow is away.
        """
        from deploy.tracking.registry import known_aliases, split_name, version_of
        from deploy.tracking.stage_run import REF_TAG

        version = self._ask(lambda client: version_of(client, *split_name(name)))
        if version is None:
            known = self._ask(known_aliases)
            raise UnknownName.among(f"registered model and alias at {self.uri}", name, known) from None
        if REF_TAG not in version.tags:
            raise ValueError(
                f"{name} is version {version.version} at {self.uri}, which another program registered: it has no "
                f"tag {REF_TAG}. Name a version that `promote` registered, or an entry of {self.local.root}."
            ) from None
        return Ref(version.tags[REF_TAG])

    def scratch(self, ref: Ref) -> Path:
        """Return the folder for checkpoints of the work on `ref`, and begin to watch the machine."""
        if ref not in self._samplers:
            self._samplers[ref] = Sampler().start()
        return self.local.scratch(ref)

    def _location(self, ref: Ref) -> Stored | None:
        database = database_file(self.uri)
        if database is not None and not database.is_file():
            return None
        try:
            return self._ask(lambda client: locate(client, ref))
        except Unreachable as error:
            log.warning("%s Going on as if it had no %s.", error, ref)
            return None

    def _fetch(self, ref: Ref) -> None:
        stored = self._location(ref)
        if stored is None:
            raise KeyError(f"no entry {ref!r} in {self.local.root} or at {self.uri}: run the stage that makes it.")
        partial = self.local.root / "incoming" / f"{ref}-{uuid.uuid4().hex[:8]}"
        try:
            found = self._ask(lambda client: download(self.uri, stored.location, partial))
            check_entry(found, ref, stored.digest)
            publish(found, self.local.folder(ref))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _push(self, ref: Ref, destination: Destination, samples: Sequence[Sample]) -> None:
        """Push an entry and, before it, those of its ancestors here that MLflow lacks, so that lineage holds.

        One process at a time pushes an entry; the second one does it again, which changes nothing.
        """
        from deploy.tracking.stage_run import push_entry

        for parent in dict.fromkeys(self.local.record(ref)["identity"]["parents"].values()):
            self._push_ancestor(Ref(parent), destination)
        with self.local.locked(Ref(f"push-{ref}")):
            self._ask(lambda client: push_entry(client, destination, self.local, ref, samples=samples), destination.uri)
            (self.pending / f"{ref}.json").unlink(missing_ok=True)

    def _push_ancestor(self, ref: Ref, child: Destination) -> None:
        """Push `ref` to where its child goes if it waits for that server, or if that server never saw it."""
        if not self.local.has(ref):
            return
        marker = self._marker(ref)
        if marker is not None and marker[0].uri == child.uri:
            self._push(ref, *marker)
        elif self._ask(lambda client: locate(client, ref), child.uri) is None:
            self._push(ref, replace(child, run_id=""), [])

    def _marker(self, ref: Ref) -> tuple[Destination, list[Sample]] | None:
        """Return where a pending entry was meant to go, and what the machine did meanwhile; None if none waits."""
        try:
            kept = json.loads((self.pending / f"{ref}.json").read_text())
        except FileNotFoundError:
            return None
        samples = [(name, when_ms, value) for name, when_ms, value in kept["samples"]]
        return Destination(**kept["destination"]), samples

    def _ask(self, work: Callable[[MlflowClient], T], uri: str = "") -> T:
        """Return `work(client)`; once MLflow was found away, later calls try only once."""
        patience = Patience.from_environment()
        if self._was_unreachable:
            patience = replace(patience, attempts=1)
        try:
            answer = retrying(uri or self.uri, work, patience)
        except Unreachable:
            self._was_unreachable = True
            raise
        self._was_unreachable = False
        return answer


def how_to_push(store: MlflowStore) -> str:
    """Return the sentence that tells how to push what is pending."""
    return f"When MLflow is back: python -m deploy.tracking push {store.local.root} --uri {store.uri}"


def pending_refs(store: MlflowStore) -> list[Ref]:
    """Return what still has to be pushed, oldest first, so that parents go before children."""
    names = [path.stem for path in store.pending.glob("*.json") if not path.name.startswith(OFFLINE)]
    known = [Ref(name) for name in names if store.local.has(Ref(name))]
    return sorted(known, key=lambda ref: (_depth(store.local, ref), store.local.record(ref)["created"]))


def flush(store: MlflowStore) -> list[Ref]:
    """Push what an interruption or an absent MLflow left behind, and return what was pushed.

    Without MLflow this only warns; everything stays pending.
    """
    waiting = pending_refs(store)
    try:
        return push_pending(store)
    except Unreachable as error:
        left = pending_refs(store)
        log.warning("%s %d results wait in %s. %s", error, len(left), store.pending, how_to_push(store))
        return [ref for ref in waiting if ref not in left]


def push_pending(store: MlflowStore, *, uri: str = "") -> list[Ref]:
    """Push everything that waits, then close the pipelines' runs that could not be closed.

    Args:
        store: Whose `pending` folder is worked off.
        uri: Push there instead of where each result was meant to go.

    Returns:
        What was pushed.

    Raises:
        Unreachable: MLflow is still away; what was not pushed stays pending.
    """
    from deploy.tracking.parents import apply_closing, resolve_parent

    pushed = []
    for ref in pending_refs(store):
        if (marker := store._marker(ref)) is not None:
            store._push(ref, _redirected(marker[0], uri), marker[1])
        pushed.append(ref)
    for path in sorted(store.pending.glob(f"{OFFLINE}*.json")):
        kept = json.loads(path.read_text())
        there = uri or kept.get("uri") or kept["open"]["destination"]["uri"]
        run_id, closing = kept.get("run_id", path.stem), kept.get("close")

        def finish(client: MlflowClient, run_id: str = run_id, closing: Any = closing, there: str = there) -> None:
            real = resolve_parent(client, run_id, store.pending, Destination(uri=there))
            if closing:
                apply_closing(client, real, closing)

        store._ask(finish, there)
        if closing:
            path.unlink()
    return pushed


def _redirected(destination: Destination, uri: str) -> Destination:
    """Return the same destination on another server, where the old server's runs do not exist."""
    if not uri or uri == destination.uri:
        return destination
    parent = destination.parent_run if destination.parent_run.startswith(OFFLINE) else ""
    return replace(destination, uri=uri, parent_run=parent, run_id="")


def _depth(local: LocalStore, ref: str) -> int:
    if not local.has(Ref(ref)):
        return 0
    parents = local.record(Ref(ref))["identity"]["parents"].values()
    return 1 + max((_depth(local, parent) for parent in parents), default=0)


def _registry_alias(client: MlflowClient, destination: Destination, ref: Ref, model: str, alias: str) -> None:
    from deploy.tracking.registry import register
    from deploy.tracking.stage_run import REF_TAG, find_model

    experiments = [item.experiment_id for item in client.search_experiments()]
    logged = find_model(client, experiments, {REF_TAG: ref})
    if logged is None:
        raise Unreachable(f"{destination.uri} has no model {ref}: push it first (python -m deploy.tracking push).")
    tags = {REF_TAG: str(ref), **destination.tags}
    version = register(client, model, logged.model_id, run_id=logged.source_run_id or "", tags=tags)
    client.set_registered_model_alias(model, alias, version.version)
