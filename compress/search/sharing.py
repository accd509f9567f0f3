"""One study, several workers: trials in a database that all of them see.

Workers take turns under a lock that the database gives back when its holder dies. In its turn a worker looks which
trials are done or under way and claims the next one; it evaluates outside. A worker that was killed stops
sending signs of life: its trial is marked as failed and its candidate is claimed by another worker. So the number of
finished trials is exactly the one asked for, and all workers read the same trials in the end.
"""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from compress.core.progress import track
from compress.core.random import derived_seed
from compress.core.registry import Piece
from compress.search.spaces.space import Candidate, Space
from compress.search.strategies.family import EXCESS
from compress.search.study import Projecting, Trial, quiet

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

T = TypeVar("T")

#: Names the database: postgresql://USER:PASSWORD@HOST/NAME. It is no option of a stage, because options are stored.
STORAGE = "SECATEUR_SEARCH_STORAGE"
#: Seconds between two signs of life of a worker, a whole number.
HEARTBEAT = "SECATEUR_SEARCH_HEARTBEAT_S"
DEFAULT_HEARTBEAT_S = 15
#: Signs of life that a worker may miss before its trial is given to another.
MISSED = 4
#: How often a candidate is tried again after its worker was lost.
MAX_RETRIES = 2
#: Seconds between two looks of a worker that has nothing to do, or whose database is away.
WAIT_S = 1.0
#: Seconds that a database may be away before a worker gives up.
PATIENCE_S = 120.0
#: Attribute of a trial that was claimed properly: by whom.
WORKER = "worker"
FINDINGS = "findings"


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What a worker found out about a candidate.

    Attributes:
        value: Validation accuracy, 0..1.
        excess: By what part the tightest limit is overspent.
        findings: JSON that the other workers take over instead of measuring for themselves.
    """

    value: float
    excess: float
    findings: Mapping[str, Any] = field(default_factory=dict)


class Board:
    """The trials of one study, in a database.

    Args:
        name: Of the study; workers with the same name work together.
        url: SQLAlchemy's address of a PostgreSQL database, or of an SQLite file for workers on one machine.
        heartbeat_s: Seconds between two signs of life.

    Raises:
        ValueError: The address is none, or of a database that has no lock for this.
        ConnectionError: The database does not answer. No message repeats the password.
    """

    def __init__(self, name: str, url: str, *, heartbeat_s: int = DEFAULT_HEARTBEAT_S) -> None:
        import optuna
        import sqlalchemy

        self.name, self.heartbeat_s = name, heartbeat_s
        self.worker = f"{socket.gethostname()}-{os.getpid()}"
        self._url = _checked_url(url)
        try:
            self._engine = sqlalchemy.create_engine(self._url, pool_pre_ping=True)
            with self.turn(), quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.storage = optuna.storages.RDBStorage(
                    self._url.render_as_string(hide_password=False),
                    engine_kwargs={"pool_pre_ping": True},
                    heartbeat_interval=heartbeat_s,
                    grace_period=MISSED * heartbeat_s,
                )
                self.study = optuna.create_study(
                    study_name=name, storage=self.storage, direction="maximize", load_if_exists=True
                )
        except sqlalchemy.exc.OperationalError:
            raise self._silent() from None

    @classmethod
    def from_environment(cls, name: str) -> Board:
        """Return the board that the environment names.

        Raises:
            ValueError: It names none.
        """
        url = os.environ.get(STORAGE, "")
        if not url:
            raise ValueError(
                f"a shared search needs a database: set {STORAGE}, for example to "
                f"postgresql://USER:PASSWORD@HOST/NAME, for every worker."
            )
        seconds = os.environ.get(HEARTBEAT) or str(DEFAULT_HEARTBEAT_S)
        if not seconds.isdecimal() or int(seconds) < 1:
            raise ValueError(f"{HEARTBEAT}={seconds!r}: a whole number of seconds, 1 or more.")
        return cls(name, url, heartbeat_s=int(seconds))

    def _silent(self) -> ConnectionError:
        shown = self._url.render_as_string(hide_password=True)
        return ConnectionError(
            f"the search storage {shown} does not answer: check {STORAGE}, that the server runs and lets this user "
            f"in. Trials that are finished are kept; the same command goes on."
        )

    def in_turn(self, act: Callable[[], T]) -> T:
        """Return what `act` returns in a turn; while the database is away, try again.

        An act that was cut off leaves at most a trial that counts as lost; it must bear being repeated.

        Raises:
            ConnectionError: The database was away for `PATIENCE_S`.
        """
        import optuna
        import sqlalchemy

        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self.turn(), quiet(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # optuna on heartbeats without its own loop
                    return act()
            except (sqlalchemy.exc.DBAPIError, optuna.exceptions.StorageInternalError):
                if time.monotonic() > end:
                    raise self._silent() from None
                time.sleep(WAIT_S)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only worker that looks and claims; the lock ends with this context, or with this process."""
        from sqlalchemy import text

        if self._url.get_backend_name() == "sqlite":
            with Path(f"{self._url.database}.lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield
            return
        with self._engine.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '600s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": derived_seed(0, "board", self.name)})
            yield

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, by their numbers."""
        return self.study.get_trials(deepcopy=False)

    def fail_lost(self) -> None:
        """Mark the trials of lost workers as failed; call it in a turn.

        A trial that runs, but was not claimed properly, belongs to a worker that died in its turn.
        """
        import optuna
        from optuna.trial import TrialState

        optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if WORKER not in trial.user_attrs:
                self.storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    @contextmanager
    def alive(self, trial_id: int) -> Iterator[None]:
        """Send signs of life for a trial."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self.heartbeat_s):
                with suppress(Exception):  # a database that is away for a moment
                    self.storage.record_heartbeat(trial_id)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class _Worker:
    """One worker's part of a shared study."""

    def __init__(
        self,
        board: Board,
        space: Space,
        strategy: Piece[Any],
        project: Callable[[Candidate], Candidate],
        opening: Sequence[Candidate],
        num_trials: int,
    ) -> None:
        self.board, self.space, self.strategy, self.project = board, space, strategy, project
        self.opening = [dict(space.decisions_of(candidate)) for candidate in opening]
        self.num_trials = num_trials

    def claims(self) -> Iterator[Any]:
        """Yield trials to evaluate until all are done, by whomever."""
        while True:
            num_done, claimed = self.board.in_turn(self.claim)
            if claimed is not None:
                yield claimed
            elif num_done >= self.num_trials:
                return
            else:
                time.sleep(WAIT_S)

    def claim(self) -> tuple[int, Any]:
        """Return how many trials are done, and the next one if there is one to claim."""
        from optuna.trial import TrialState

        study = self.board.study
        self.board.fail_lost()
        trials = self.board.trials()
        live = [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.COMPLETE)]
        num_done = sum(trial.state == TrialState.COMPLETE for trial in live)
        if len(live) >= self.num_trials:
            return num_done, None
        seed = derived_seed(int(self.strategy.options.get("seed", 0)), "trial", len(trials))
        sampler = Projecting(self.strategy(self.space, seed=seed % 2**32), self.space, self.project)
        study.sampler = cast("Any", sampler)
        if not any(trial.state == TrialState.WAITING for trial in trials):
            wanted = self.wanted(trials, [trial.params for trial in live])
            if wanted is not None:
                study.enqueue_trial(wanted)
        claimed = study.ask(dict(self.space.distributions()))
        self.board.storage.record_heartbeat(claimed._trial_id)
        claimed.set_user_attr(WORKER, self.board.worker)
        return num_done, claimed

    def wanted(self, trials: Sequence[FrozenTrial], live: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the decisions that come next whatever the strategy says: lost ones, then the opening."""
        from optuna.trial import TrialState

        failed = [trial.params for trial in trials if trial.state == TrialState.FAIL and trial.params]
        for params in (*failed, *self.opening):
            if params not in live and failed.count(params) <= MAX_RETRIES:
                return dict(params)
        return None

    def tell(self, trial: Any, found: Assessment | None) -> None:
        """Write down what was found, or that nothing was; a trial that another worker took over stays as it is."""
        from optuna.trial import TrialState

        def write() -> None:
            if self.board.storage.get_trial(trial._trial_id).state != TrialState.RUNNING:
                return
            if found is None:
                self.board.study.tell(trial, state=TrialState.FAIL)
                return
            trial.set_constraint(EXCESS, found.excess)
            trial.set_user_attr(FINDINGS, dict(found.findings))
            self.board.study.tell(trial, found.value)

        self.board.in_turn(write)


def run_shared_study(
    space: Space,
    strategy: Piece[Any],
    *,
    project: Callable[[Candidate], Candidate],
    assess: Callable[[Candidate], Assessment],
    learn: Callable[[Candidate, Mapping[str, Any]], None],
    opening: Sequence[Candidate],
    num_trials: int,
    board: Board,
) -> list[Trial]:
    """Work on a study with others until it is done, and return its trials: the same for every worker.

    Which candidates are tried depends on how fast the workers are; that each is tried once, and that there are
    `num_trials` of them, does not.

    Args:
        space: What may vary.
        strategy: Piece of STRATEGIES; each trial has its own seed.
        project: Moves a proposal onto the budget.
        assess: Evaluates a candidate.
        learn: Is told of every trial what its worker found.
        opening: Candidates to try first.
        num_trials: How many trials all workers finish together, at least 1.
        board: Where the trials are.
    """
    from optuna.trial import TrialState

    if num_trials < 1:
        raise ValueError(f"num_trials={num_trials}: a search needs at least one.")
    worker = _Worker(board, space, strategy, project, opening, num_trials)
    for claimed in track(worker.claims(), total=num_trials, what=f"search, worker {board.worker}"):
        found = None
        try:
            with board.alive(claimed._trial_id):
                found = assess(space.candidate_of(claimed.params))
        finally:
            worker.tell(claimed, found)
    found_trials = board.in_turn(board.trials)
    trials = []
    for number, done in enumerate(trial for trial in found_trials if trial.state == TrialState.COMPLETE):
        candidate = space.candidate_of(done.params)
        learn(candidate, done.user_attrs[FINDINGS])
        assert done.value is not None
        trials.append(Trial(number=number, candidate=candidate, value=done.value, excess=done.constraints[EXCESS]))
    return trials


def _checked_url(url: str) -> Any:
    """Return the parsed address, with the PostgreSQL driver that is installed.

    Raises:
        ValueError: It is none, or names a database without the lock; the message does not repeat it.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(
            f"{STORAGE} is no database address: write postgresql://USER:PASSWORD@HOST/NAME, with special characters "
            f"of the password as %XX."
        ) from None
    backend = parsed.get_backend_name()
    if backend not in ("postgresql", "sqlite") or (backend == "sqlite" and parsed.database in (None, "", ":memory:")):
        raise ValueError(
            f"{STORAGE} names {backend}: workers share a PostgreSQL database (postgresql://…), or an SQLite file on "
            f"one machine (sqlite:///FILE)."
        )
    if parsed.drivername == "postgresql" and find_spec("psycopg") is None:
        return parsed.set(drivername="postgresql+psycopg2")
    return parsed
