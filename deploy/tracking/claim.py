"""Moving the champion by compare-and-set, on a registry that can only set.

MLflow overwrites an alias whoever asks. What it does decide alone is the number of a new version: numbers
only grow, no two versions of a name share one, and a version is stored together with its tags. So every
version that wants to be champion is a claim: its tags say which champion it expects to replace, and of
the open claims that expect the same one, the lowest number wins (docs/adr/0008).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploy.tracking.destination import clipped, quoted
from deploy.tracking.registry import ensure_name, version_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
CLAIM_TAG, CLAIMANT_TAG, EXPECTED_TAG = "secateur.claim", "secateur.claimant", "secateur.previous_champion"
OPEN, WON, LOST = "open", "won", "lost"
#: A claim that is older than this, by the server's clock, belongs to a run that died: no request takes so long.
LEASE_S = 900.0


@dataclass(kw_only=True)
class Claim:
    """One attempt to make a package the champion; `stake` may be called again when an answer got lost.

    Attributes:
        name: Registered model.
        claimant: Who claims: a run of the pipeline. Its own older claims are withdrawn, for they are remains of a
            process that was killed.
        lease_s: Age at which somebody else's open claim counts as abandoned.
        version: What was registered, after `stake`.
        is_sent: Whether the registry was asked to move the alias; without its answer nobody knows whether it did.
    """

    name: str
    claimant: str
    lease_s: float = LEASE_S
    version: ModelVersion | None = None
    is_sent: bool = field(default=False, init=False)
    _staked_at: float = field(default=0.0, repr=False)

    def stake(
        self,
        client: MlflowClient,
        source: str,
        *,
        expected: str,
        run_id: str = "",
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Return the version that claims to follow `expected`; registered once while this claim is fresh.

        Args:
            client: Connected.
            source: What is registered, `models:/m-…`.
            expected: Version that is the champion now; empty for none.
            run_id: MLflow run that the version belongs to.
            tags: More tags of the version.
            description: Text of the version's page.
        """
        if self.version is not None and self._is_fresh(expected):
            return self.version
        ensure_name(client, self.name)
        marks = {CLAIM_TAG: OPEN, CLAIMANT_TAG: self.claimant, EXPECTED_TAG: expected}
        self._staked_at = time.monotonic()
        model_id = source.removeprefix("models:/")
        self.version = client.create_model_version(
            self.name,
            source,
            run_id=run_id or None,
            model_id=model_id,
            tags=clipped(dict(tags or {}) | marks),
            description=description,
        )
        return self.version

    def settle(self, client: MlflowClient) -> str:
        """Move the alias if this claim wins; return why not otherwise, and nothing when it moved.

        The order is what makes it safe: rivals first, the champion after them, the alias last. A rival that is no
        longer open has moved the alias before it said so, and is seen as the champion.
        """
        assert self.version is not None, "stake first"
        reason = self._rivals(client) or self._changed(client)
        if not reason:
            self.is_sent = True
            client.set_registered_model_alias(self.name, CHAMPION, self.version.version)
        self._mark(client, self.version, LOST if reason else WON)
        return reason

    def _is_fresh(self, expected: str) -> bool:
        assert self.version is not None
        is_young = time.monotonic() - self._staked_at < self.lease_s / 3
        return is_young and self.version.tags.get(EXPECTED_TAG, "") == expected

    def _rivals(self, client: MlflowClient) -> str:
        assert self.version is not None
        mine, number = self.version, int(self.version.version)
        found = open_claims(client, self.name, mine.tags.get(EXPECTED_TAG, ""))
        if number not in (int(rival.version) for rival in found):
            return f"another run took the claim of version {number} for abandoned: promote again."
        for rival in found:
            if int(rival.version) == number:
                continue
            age_s = (mine.creation_timestamp - rival.creation_timestamp) / 1000
            if rival.tags.get(CLAIMANT_TAG) == self.claimant or age_s > self.lease_s:
                self._mark(client, rival, LOST)
            elif int(rival.version) < number:
                whose = rival.tags.get(CLAIMANT_TAG) or "?"
                return (
                    f"version {rival.version}, of run {whose}, was registered first and is being made the champion: "
                    f"compare, then promote again (after {self.lease_s:.0f} s if that run died)."
                )
        return ""

    def _changed(self, client: MlflowClient) -> str:
        assert self.version is not None
        now = version_of(client, self.name, CHAMPION)
        moved = str(now.version) if now is not None else ""
        if moved == self.version.tags.get(EXPECTED_TAG, ""):
            return ""
        return f"somebody else made version {moved or 'none'} the champion meanwhile: compare, then promote again."

    def _mark(self, client: MlflowClient, version: ModelVersion, state: str) -> None:
        client.set_model_version_tag(self.name, version.version, CLAIM_TAG, state)


def open_claims(client: MlflowClient, name: str, expected: str) -> list[ModelVersion]:
    """Return the open claims to follow version `expected` of a registered model, lowest number first."""
    condition = f"name = '{quoted(name)}' and tags.`{CLAIM_TAG}` = '{OPEN}'"
    found: list[ModelVersion] = []
    token = None
    while True:
        page = client.search_model_versions(condition, order_by=["version_number ASC"], page_token=token)
        found += [version for version in page if version.tags.get(EXPECTED_TAG, "") == expected]
        if not (token := page.token):
            return found


def finish_claim(client: MlflowClient, champion: ModelVersion) -> None:
    """Say of a champion whose process died just after it moved the alias that it won."""
    if champion.tags.get(CLAIM_TAG) == OPEN:
        client.set_model_version_tag(champion.name, champion.version, CLAIM_TAG, WON)
