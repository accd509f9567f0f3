"""`python docs/screenshots.py WORKSPACE`: pictures of MLflow's views and of the report of a real run, for these pages.

Needs Chromium (or SECATEUR_CHROMIUM), and a workspace that `make demo` has filled.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

IMAGES = Path(__file__).parent / "images"
#: Width and height of the window, by picture.
WINDOWS = {"mlflow_runs": "1400,700", "mlflow_compare": "1600,1620", "mlflow_model": "1400,700", "report": "1400,2400"}
#: Milliseconds that a page gets to draw itself.
DRAWING_MS = 30_000


@contextmanager
def mlflow_ui(workspace: Path) -> Iterator[str]:
    """Serve the workspace's runs on the loopback, and yield the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    uri = f"sqlite:///{(workspace / 'mlflow.db').absolute()}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise SystemExit("the MLflow UI did not start within 150 s")
        yield address
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)


def pages(workspace: Path, address: str) -> dict[str, str]:
    """Return the addresses to look at, by picture: runs, two students compared, the champion, the report."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    for experiment in client.search_experiments():
        ids = [experiment.experiment_id]
        judged = client.search_runs(ids, "tags.`secateur.stage` = 'evaluate'", order_by=["start_time DESC"])
        if len(judged) >= 2:
            break
    else:
        raise SystemExit(f"{workspace} holds no two judged students: run `make demo` first")
    newest = {run.data.tags["secateur.budget"]: run.info.run_id for run in reversed(judged)}
    chosen = f"runs={quote(json.dumps(list(newest.values())))}&experiments={quote(json.dumps(ids))}"
    report = max(workspace.glob("reports/*/index.html"), key=lambda path: path.stat().st_mtime)
    (model, *_) = client.search_registered_models()
    print(f"experiment {experiment.name}, budgets {', '.join(newest)}, model {model.name}")
    return {
        "mlflow_runs": f"{address}/#/experiments/{ids[0]}/runs",
        "mlflow_compare": f"{address}/#/compare-runs?{chosen}",
        "mlflow_model": f"{address}/#/models/{model.name}",
        "report": report.absolute().as_uri(),
    }


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--out", type=Path, default=IMAGES)
    options = parser.parse_args()
    browser = os.environ.get("SECATEUR_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no Chromium here: install it, or name it by SECATEUR_CHROMIUM")
    with mlflow_ui(options.workspace) as address:
        for name, page in pages(options.workspace, address).items():
            target = (options.out / f"{name}.png").absolute()
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            command += ["--disable-sync", "--hide-scrollbars", f"--window-size={WINDOWS[name]}"]
            command += [f"--virtual-time-budget={DRAWING_MS}", f"--screenshot={target}", page]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            print(f"{name}.png  {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
