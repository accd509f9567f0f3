"""Compare-and-set on a real registry: two processes, one MLflow server over HTTP, exactly one champion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.tracking.claim import CHAMPION, CLAIM_TAG, LOST, OPEN, WON, Claim
from tests.deploy.mlflow_server import mlflow_server
from tests.deploy.stored_run import fresh_uri

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
#: Races in one run of the tests; SECATEUR_RACES=100 looks harder.
ROUNDS, WHOLE_ROUNDS = int(os.environ.get("SECATEUR_RACES", "20")), 3


def model_uri(uri: str) -> str:
    """Return the source of a LoggedModel to register."""
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelStatus

    client = MlflowClient(uri, uri)
    model = client.create_logged_model("0", name="package", model_type="secateur-package")
    return f"models:/{client.finalize_logged_model(model.model_id, LoggedModelStatus.READY).model_id}"


class Rival:
    """Another process that promotes on demand."""

    def __init__(self, uri: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "tests.deploy.rival", uri, str(folder)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        environment["SECATEUR_MLFLOW_TIMEOUT_S"] = "60"
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tell(self, order: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        line = self.line()
        assert line, f"ended with {self.process.wait(30)}"
        return dict(json.loads(line))


@contextmanager
def rivals(uri: str, folder: Path, count: int) -> Iterator[list[Rival]]:
    started = [Rival(uri, folder / f"rival-{index}") for index in range(count)]
    try:
        assert [rival.line() for rival in started] == ["ready\n"] * count
        yield started
    finally:
        for rival in started:
            rival.process.kill()
            rival.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server"), workers=2) as uri:
        yield uri


@pytest.fixture(scope="module")
def pair(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Rival]]:
    """Yield two processes that stay: each takes seconds to start."""
    with rivals(served, tmp_path_factory.mktemp("pair"), 2) as both:
        yield both


def champion(uri: str, name: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri, uri).get_model_version_by_alias(name, CHAMPION)


def states(uri: str, name: str) -> Counter[str]:
    from mlflow import MlflowClient

    found = MlflowClient(uri, uri).search_model_versions(f"name = '{name}'")
    return Counter(version.tags.get(CLAIM_TAG, "") for version in found)


def test_of_two_processes_exactly_one_wins_and_the_other_says_so(served: str, pair: list[Rival]) -> None:
    source, reasons = model_uri(served), Counter[str]()
    for turn in range(ROUNDS):
        for index, rival in enumerate(pair):
            rival.tell({"name": "race", "source": source, "claimant": f"run-{turn}-{index}"})
        answers = [rival.answer() for rival in pair]
        won = [answer for answer in answers if not answer["reason"]]
        (lost,) = [answer for answer in answers if answer["reason"]]
        assert len(won) == 1, answers
        assert str(champion(served, "race").version) == won[0]["version"]
        reasons["first" if "registered first" in lost["reason"] else "meanwhile"] += 1
        assert "promote again" in lost["reason"]
    print(f"{ROUNDS} races: {ROUNDS} times exactly one winner; the loser was told {dict(reasons)}")
    assert states(served, "race") == {WON: ROUNDS, LOST: ROUNDS}


def test_of_two_whole_promotions_exactly_one_wins(served: str, pair: list[Rival]) -> None:
    for turn in range(WHOLE_ROUNDS):
        for index, rival in enumerate(pair):
            rival.tell({"prepare": 2 * turn + index})
        refs = [rival.answer() for rival in pair]
        for rival, mine in zip(pair, refs, strict=True):
            rival.tell({"name": "whole", "refs": mine})
        answers = [rival.answer() for rival in pair]
        (won,) = [answer for answer in answers if answer["promoted"]]
        (lost,) = [answer for answer in answers if not answer["promoted"]]
        assert str(champion(served, "whole").version) == won["version"]
        assert champion(served, "whole").tags["secateur.ref"] == won["export"]
        assert "promote again" in lost["reasons"][0]
    print(f"{WHOLE_ROUNDS} whole promotions of two: one winner each time")


@pytest.mark.parametrize("die_before", ["search_model_versions", "set_registered_model_alias", "set_model_version_tag"])
def test_a_killed_claim_never_blocks_its_own_run_and_others_only_for_a_while(
    served: str, pair: list[Rival], tmp_path: Path, die_before: str
) -> None:
    name, source, witness = f"killed-{die_before}", model_uri(served), pair[0]
    with rivals(served, tmp_path, 1) as (victim,):
        victim.tell({"name": name, "source": source, "claimant": "dead", "die_before": die_before})
        assert victim.line() == ""
        assert victim.process.wait(30) == -signal.SIGKILL
        assert states(served, name) == {OPEN: 1}
        if die_before == "set_model_version_tag":
            assert str(champion(served, name).version) == "1", "the alias had moved"
            witness.tell({"name": name, "source": source, "claimant": "other"})
            assert witness.answer() == {"reason": "", "version": "2"}
            return
        witness.tell({"name": name, "source": source, "claimant": "other"})
        refused = witness.answer()
        assert "version 1, of run dead, was registered first" in refused["reason"]
        witness.tell({"name": name, "source": source, "claimant": "other", "lease_s": 0.001})
        assert witness.answer() == {"reason": "", "version": "3"}
        assert states(served, name) == {LOST: 2, WON: 1}


def test_the_run_that_was_killed_goes_on_at_once(served: str, pair: list[Rival], tmp_path: Path) -> None:
    order = {"name": "again", "source": model_uri(served), "claimant": "night-7"}
    with rivals(served, tmp_path, 1) as (victim,):
        victim.tell(order | {"die_before": "set_registered_model_alias"})
        assert victim.line() == ""
    pair[1].tell(order)
    assert pair[1].answer() == {"reason": "", "version": "2"}
    assert states(served, "again") == {LOST: 1, WON: 1}


# In one process, on a file: orders that two processes would have to be lucky to hit.


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    from deploy.tracking.connection import connected

    with connected(fresh_uri(tmp_path)) as found:
        yield found


def staked(client: Any, claimant: str, expected: str = "") -> Claim:
    made = Claim(name="net", claimant=claimant)
    made.stake(client, model_uri(client.tracking_uri), expected=expected)
    return made


def test_the_first_registered_wins_whoever_settles_first(client: Any) -> None:
    first, second = staked(client, "a"), staked(client, "b")
    assert "version 1, of run a, was registered first" in second.settle(client)
    assert first.settle(client) == ""
    assert str(client.get_model_version_by_alias("net", CHAMPION).version) == "1"


def test_who_settles_after_the_winner_sees_the_new_champion(client: Any) -> None:
    first, second = staked(client, "a"), staked(client, "b")
    assert first.settle(client) == ""
    assert "made version 1 the champion meanwhile" in second.settle(client)


def test_a_claim_that_was_taken_for_abandoned_does_not_move_the_alias_any_more(client: Any) -> None:
    slow, quick = staked(client, "a"), staked(client, "b")
    quick.lease_s = -1.0
    assert quick.settle(client) == ""
    assert "abandoned" in slow.settle(client)
    assert str(client.get_model_version_by_alias("net", CHAMPION).version) == "2"


def test_after_a_rollback_by_hand_promotion_goes_on(client: Any) -> None:
    assert staked(client, "a").settle(client) == ""
    assert staked(client, "b", "1").settle(client) == ""
    client.set_registered_model_alias("net", CHAMPION, "1")
    assert staked(client, "c", "1").settle(client) == ""
    assert str(client.get_model_version_by_alias("net", CHAMPION).version) == "3"


def test_a_second_stake_of_the_same_process_registers_nothing_new(client: Any) -> None:
    claim = staked(client, "a")
    again = claim.stake(client, "models:/m-other", expected="")
    assert again.version == 1
    assert len(client.search_model_versions("name = 'net'")) == 1
    newer = claim.stake(client, model_uri(client.tracking_uri), expected="1")
    assert newer.version == 2, "what it expects has changed: another claim"
