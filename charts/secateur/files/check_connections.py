"""Ask the servers that the chart was told about, with the image's Python alone; run by `helm test`.

MLflow is asked through its API, because its /health answers for host names that the API refuses.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

TIMEOUT_S = 10.0


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Print a line a server and return the number of servers that failed."""
    tracking = environment["MLFLOW_TRACKING_URI"].rstrip("/")
    kubeflow = environment["KF_PIPELINES_ENDPOINT"].rstrip("/")
    checks = [
        ("MLflow", f"{tracking}/api/2.0/mlflow/experiments/search?max_results=1", mlflow_headers(environment)),
        ("Kubeflow Pipelines", f"{kubeflow}/apis/v2beta1/healthz", kubeflow_headers(environment)),
    ]
    num_failed = 0
    for name, url, headers in checks:
        trouble = failure(url, headers)
        num_failed += bool(trouble)
        print(f"{name}: {url}: {trouble or 'answers'}", flush=True)
    return num_failed


def mlflow_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the header that MLflow's client would send for the credentials that are there."""
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := environment.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def kubeflow_headers(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the header with the projected token of the service account, if the chart mounted one."""
    path = environment.get("KF_PIPELINES_SA_TOKEN_PATH")
    return {"Authorization": f"Bearer {Path(path).read_text().strip()}"} if path else {}


def failure(url: str, headers: Mapping[str, str]) -> str:
    """Return why a GET of `url` does not give JSON, or an empty string when it does."""
    request = urllib.request.Request(url, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read(300).decode(errors="replace")
        return f"HTTP {error.code}, {advice(error.code, text)}: {' '.join(text.split())}"
    except OSError as error:
        return f"no answer ({error}): check the address, that the server runs, and the NetworkPolicies on both sides"
    except ValueError:
        return "answers, but not with JSON: the address leads to something else, perhaps a login page"
    return ""


def advice(code: int, text: str) -> str:
    """Return what repairs a refusal."""
    if "Invalid Host header" in text:
        return "start MLflow with MLFLOW_SERVER_ALLOWED_HOSTS that holds this host and port"
    if code in (401, 403):
        return "check the credentials in the Secret and the service account's rights"
    return "look into the server's log"


if __name__ == "__main__":
    sys.exit(main())
