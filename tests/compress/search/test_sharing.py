"""Several workers on one study: no trial lost, none doubled."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.trial import TrialState

from compress.search.sharing import HEARTBEAT, MAX_RETRIES, STORAGE, Board
from tests.compress.search.search_worker import SPACE, work
from tests.postgresql import PASSWORD, postgresql

ROOT = Path(__file__).parents[3]
NUM_TRIALS = 16


@pytest.fixture(scope="module")
def database():
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install psycopg2-binary")
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, postgresql(Path(folder)) as server:
        yield server


def start(url, log, pause_s=0.25, num_trials=NUM_TRIALS, name="search-test"):
    command = [sys.executable, "-m", "tests.compress.search.search_worker", name, str(num_trials)]
    command += [str(pause_s), str(log)]
    environment = {**os.environ, STORAGE: url, HEARTBEAT: "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def begun(log):
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split(" ", 1) for line in lines]


def finish(worker):
    output, errors = worker.communicate(timeout=120)
    assert worker.returncode == 0, errors[-2000:]
    assert PASSWORD not in output + errors
    return json.loads(output)


@pytest.mark.slow
def test_a_killed_worker_loses_and_doubles_nothing(database, tmp_path):
    logs = [tmp_path / f"{k}.log" for k in range(3)]
    survivor, victim = start(database.url, logs[0]), start(database.url, logs[1], pause_s=0.5)
    deadline = time.monotonic() + 60
    while sum(what == "begin" for what, _ in begun(logs[1])) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(victim.pid, signal.SIGKILL)
    errors = victim.communicate()[1]
    assert victim.returncode == -signal.SIGKILL
    assert PASSWORD not in errors
    newcomer = start(database.url, logs[2])
    first, second = finish(survivor), finish(newcomer)

    assert first == second
    assert len(first["trials"]) == NUM_TRIALS
    assert len(first["learnt"]) == NUM_TRIALS
    trials = Board("search-test", database.url).trials()
    states = Counter(trial.state for trial in trials)
    print(f"trials by state after kill -9 of one of two workers: { {s.name: n for s, n in states.items()} }")
    begins = {what: Counter() for what in ("begin", "end")}
    for log in logs:
        for what, key in begun(log):
            begins[what][key] += 1
    broken_off = [key for what, key in begun(logs[1]) if what == "begin"][-1]
    is_lost = begun(logs[1])[-1][0] == "begin"
    assert is_lost, "the victim was killed between two trials; give it a longer pause"
    assert states == {TrialState.COMPLETE: NUM_TRIALS, TrialState.FAIL: 1}
    keys = {SPACE.candidate_of(trial.params).key for trial in trials if trial.state == TrialState.COMPLETE}
    assert broken_off in keys
    assert begins["end"] == dict.fromkeys(keys, 1)
    assert begins["begin"] == {**dict.fromkeys(keys, 1), broken_off: 2}
    assert len(begun(logs[0])) > 4 < len(begun(logs[1]))


@pytest.mark.slow
def test_a_restart_of_the_server_costs_no_trial(database, tmp_path):
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    workers = [start(database.url, log, pause_s=0.4, num_trials=10, name="restart") for log in logs]
    deadline = time.monotonic() + 60
    while not all(len(begun(log)) > 2 for log in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    database.restart()
    first, second = (finish(worker) for worker in workers)
    assert first == second
    assert len(first["learnt"]) == len(first["trials"]) == 10
    states = Counter(trial.state for trial in Board("restart", database.url).trials())
    print(f"trials by state after a restart of PostgreSQL: { {s.name: n for s, n in states.items()} }")
    assert states[TrialState.COMPLETE] == 10
    assert states[TrialState.RUNNING] == 0


def lines_of(board, log, num_trials=6):
    return work(num_trials, 0.0, log, board)["trials"]


def test_a_file_serves_workers_on_one_machine(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    found = lines_of(Board("one", url), tmp_path / "log")
    assert [number for number, *_ in found] == list(range(6))
    assert [key for _, key, *_ in found[:2]] == [SPACE.largest.key, SPACE.smallest.key]
    assert lines_of(Board("one", url), tmp_path / "again") == found
    assert not (tmp_path / "again").exists()
    assert len(lines_of(Board("other", url), tmp_path / "log", num_trials=3)) == 3


def test_a_worker_that_died_in_its_turn_blocks_nobody(tmp_path):
    board = Board("one", f"sqlite:///{tmp_path / 'study.db'}")
    board.study.enqueue_trial(dict(SPACE.decisions_of(SPACE.smallest)))
    lost = board.study.ask(dict(SPACE.distributions()))
    found = lines_of(board, tmp_path / "log")
    assert board.storage.get_trial(lost._trial_id).state == TrialState.FAIL
    assert sorted(key for _, key, *_ in found).count(SPACE.smallest.key) == 1


def test_a_candidate_that_ends_its_workers_is_given_up(tmp_path):
    board = Board("one", f"sqlite:///{tmp_path / 'study.db'}")
    for _ in range(MAX_RETRIES + 1):
        board.study.enqueue_trial(dict(SPACE.decisions_of(SPACE.largest)))
        board.study.ask(dict(SPACE.distributions()))
    found = lines_of(board, tmp_path / "log")
    assert len(found) == 6
    assert SPACE.largest.key not in {key for _, key, *_ in found}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no address of secret-word", "no database address: write postgresql://"),
        ("mysql://user:secret-word@host/name", "names mysql: workers share a PostgreSQL"),
        ("sqlite://", "names sqlite: .* an SQLite file"),
    ],
)
def test_a_wrong_address_is_refused_without_being_repeated(url, message):
    with pytest.raises(ValueError, match=message) as caught:
        Board("one", url)
    assert "secret-word" not in str(caught.value)


def test_a_server_that_is_away_is_named_without_the_password():
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install psycopg2-binary")
    with pytest.raises(
        ConnectionError, match=r"postgresql\S*://user:\*\*\*@127\.0\.0\.1:1/name does not answer"
    ) as caught:
        Board("one", "postgresql://user:secret-word@127.0.0.1:1/name")
    assert "secret-word" not in str(caught.value)


def test_no_address_is_an_error(monkeypatch):
    monkeypatch.delenv(STORAGE, raising=False)
    with pytest.raises(ValueError, match=f"needs a database: set {STORAGE}"):
        Board.from_environment("one")


@pytest.mark.parametrize("seconds", ["0", "1.5", "soon"])
def test_a_heartbeat_is_a_whole_number_of_seconds(monkeypatch, tmp_path, seconds):
    monkeypatch.setenv(STORAGE, f"sqlite:///{tmp_path / 'study.db'}")
    monkeypatch.setenv(HEARTBEAT, seconds)
    with pytest.raises(ValueError, match=f"{HEARTBEAT}='{seconds}': a whole number"):
        Board.from_environment("one")
