"""A process that promotes when it is told to: reads JSON lines, answers JSON lines. Two of them race in a test."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from compress.store import LocalStore
from deploy.promote import promote
from deploy.tracking.claim import CHAMPION, Claim
from deploy.tracking.connection import connected
from deploy.tracking.registry import version_of
from tests.deploy.stored_run import put_run


def claim(client: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Claim for a model that exists already; `die_before` names a call of the client that is never made."""
    if dying := order.get("die_before"):
        setattr(client, dying, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    before = version_of(client, order["name"], CHAMPION)
    mine = Claim(name=order["name"], claimant=order["claimant"], lease_s=order.get("lease_s", 900.0))
    version = mine.stake(client, order["source"], expected=str(before.version) if before else "")
    return {"reason": mine.settle(client), "version": str(version.version)}


def main() -> None:
    """Answer one order after the other; what libraries print goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    uri, folder = sys.argv[1], Path(sys.argv[2])
    store = LocalStore(folder / "store")
    with connected(uri) as client:
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            if "source" in order:
                answer = claim(client, order)
            elif "prepare" in order:
                answer = dict(put_run(store, folder / "files", seed=order["prepare"]))
            else:
                refs = order["refs"]
                answer = promote(store, uri, order["name"], refs["export"], refs["gate"])
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
