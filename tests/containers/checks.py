"""What `make test-containers` checks: the image's promises, and the whole pipeline inside of it.

Not named `test_…`, so that neither `make check` nor `make test` collects it: it needs root and builds gigabytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.preset import arguments
from tests.containers import base, runs
from tests.containers.dag import USER
from tests.containers.engine import Engine, Unavailable, engine, install_programs, remove
from tests.containers.image import NAME, ask, inspect, make
from tests.deploy.mlflow_server import mlflow_server
from tests.end_to_end.test_demo import PRESET, STAGES

LABELS = {
    "version": "9.8.7",
    "revision": "0123abc",
    "created": "2026-01-02T03:04:05Z",
    "source": "https://example.org/s",
}
GIB = 2**30
#: What a container may write to, when its root is read-only.
WRITABLE = "uid 1000 writes /tmp /workspace"
AROUND = ("resolve", "promote", "report", "close_run")


def say(text: str) -> None:
    print(f"    {text}", flush=True)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    kept = os.environ.get("SECATEUR_CONTAINERS_FOLDER", "")
    made = Path(kept or tempfile.mkdtemp(prefix="secateur-containers-"))
    made.chmod(0o755)
    yield made
    if not kept:
        remove(made)


@pytest.fixture(scope="session")
def running(folder: Path) -> Iterator[Engine]:
    try:
        install_programs()
        with engine(folder / "engine") as started:
            yield started
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(running: Engine, folder: Path) -> str:
    start = time.monotonic()
    try:
        base.stand_in(running, folder)
    except Unavailable as error:
        pytest.skip(str(error))
    say(f"base: a STAND-IN for {base.NAME}, made of Debian's packages; the official image cannot be pulled here")
    middle = time.monotonic()
    said = make(running, "image", **{name.upper(): value for name, value in LABELS.items()})
    say(f"base {middle - start:.0f} s, image {time.monotonic() - middle:.0f} s")
    return said


@pytest.fixture(scope="session")
def facts(running: Engine, built: str) -> dict[str, Any]:
    return inspect(running)


def test_labels_switches_and_no_health_check(facts):
    config = facts["Config"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert {name: labels[name] for name in LABELS} == LABELS
    environment = dict(line.split("=", 1) for line in config["Env"])
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert environment["MLFLOW_ALLOW_MODEL_CODE_EXECUTION"] == "false"
    assert config["User"] == f"{USER}:{USER}"
    assert not config.get("Healthcheck")
    assert not config.get("Entrypoint")
    say(f"size {facts['Size'] / GIB:.2f} GiB, {len(facts['RootFS']['Layers'])} layers, id {facts['Id'][:19]}")


def test_it_runs_as_its_user_on_a_root_that_cannot_be_written(running, facts):
    assert ask(running, "sh", "-c", "id -u; id -g; id -un").stdout.split() == ["1000", "1000", "secateur"]
    refused = ask(running, "sh", "-c", "echo x > /opt/secateur/x")
    assert refused.returncode != 0
    assert "Read-only file system" in refused.stdout
    capabilities = ask(running, "grep", "-h", "^Cap[PE]", "/proc/self/status").stdout.split()
    assert capabilities[1::2] == ["0" * 16] * 2
    assert ask(running, "grep", "NoNewPrivs", "/proc/self/status").stdout.split()[1] == "1"


def test_its_files_belong_to_root_even_where_the_root_could_be_written(running, facts):
    done = running.docker("run", "--rm", "--network=none", NAME, "sh", "-c", "echo x > /opt/secateur/x", check=False)
    assert done.returncode != 0
    assert "Permission denied" in done.stdout
    found = ask(running, "find", "/opt/secateur", "!", "-user", "root", "-o", "-perm", "-o+w", "!", "-type", "l")
    assert found.stdout.split() == []


def test_nothing_to_build_with_and_no_cache_is_left(running, facts):
    tools = "gcc cc g++ c++ clang ld as make cmake nvcc uv"
    assert ask(running, "sh", "-c", f"for name in {tools}; do command -v $name; done; true").stdout.split() == []
    places = "/root/.cache /src /tools /var/cache/apt/archives/*.deb /var/lib/apt/lists/*_* /opt/secateur/bin/pip*"
    assert ask(running, "sh", "-c", f"ls -d {places} 2>/dev/null; true").stdout.split() == []
    layers = running.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", NAME).stdout
    assert "uv pip install" not in layers


def test_bytecode_was_compiled_when_it_was_built(running, facts):
    code = (
        "import importlib.util as u, os\n"
        "for n in ('torch', 'mlflow', 'kfp', 'compress', 'deploy', 'components.prune.component', 'pipelines'):\n"
        "    print(n, os.path.exists(u.find_spec(n).cached))\n"
    )
    assert set(ask(running, "python", "-c", code).stdout.split()[1::2]) == {"True"}


def test_the_command_line_runs_without_a_network(running, facts):
    start = time.monotonic()
    listed = ask(running, "secateur", "list")
    assert listed.returncode == 0, listed.stdout
    assert "taylor" in listed.stdout
    say(f"secateur list: {time.monotonic() - start:.1f} s")
    assert ask(running, "secateur", "pipeline", "--help").returncode == 0
    wrong = ask(running, "secateur", "describe", "tailor")
    assert wrong.returncode != 0
    assert "taylor" in wrong.stdout


def test_the_clients_of_shared_searches_and_of_triton_are_there(running, facts):
    done = ask(running, "python", "-c", "import psycopg2, tritonclient.grpc, tritonclient.http")
    assert done.returncode == 0, done.stdout


def test_another_user_will_do_as_on_openshift(running, facts):
    code = "import getpass, pathlib, torch, mlflow, matplotlib.pyplot; print(getpass.getuser(), pathlib.Path.home())"
    done = ask(running, "python", "-c", code, options=("--user=1000670000:0",))
    assert done.returncode == 0, done.stdout
    assert done.stdout.split()[-2:] == ["secateur", "/tmp/secateur"]


def test_mlflow_refuses_pickle_in_it(running, facts):
    code = (
        "import mlflow, torch\n"
        "mlflow.set_tracking_uri('sqlite:////tmp/m.db')\n"
        "mlflow.pytorch.save_model(torch.nn.Linear(2, 2), '/tmp/model', serialization_format='pickle')\n"
        "mlflow.pytorch.load_model('/tmp/model')\n"
    )
    done = ask(running, "python", "-c", code, options=("--workdir=/tmp",))
    assert done.returncode != 0
    assert re.search(r"pickle", done.stdout.splitlines()[-1], re.IGNORECASE), done.stdout


def test_the_bill_of_materials_names_what_is_installed(running, facts, folder):
    make(running, "sbom", SBOM=str(folder / "sbom"))
    found = json.loads((folder / "sbom" / "sbom.cdx.json").read_text())
    assert found["bomFormat"] == "CycloneDX"
    listed = {item["name"].lower().replace("_", "-"): item["version"] for item in found["components"]}
    code = "from importlib.metadata import distributions as d\nfor o in d(): print(o.name, o.version)"
    installed = dict(line.split() for line in ask(running, "python", "-c", code).stdout.splitlines())
    installed = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in installed.items()}
    listed = {name.replace(".", "-"): version for name, version in listed.items()}
    listed |= {"secateur": installed["secateur"]}
    assert listed == installed
    say(f"{len(installed)} packages in the bill of materials")


def test_the_pipeline_runs_in_containers_and_promotes(running, facts, folder):
    start = time.monotonic()
    home = folder / "dag"
    shutil.rmtree(home, ignore_errors=True)
    (folder / "mlflow").mkdir(exist_ok=True)
    with mlflow_server(folder / "mlflow") as uri:
        given = arguments(PRESET) | {"workspace": "/workspace", "tracking_uri": uri, "run_name": "containers"}
        digest = facts["Id"]
        done = runs.run(running, NAME, "compress", home, given, SECATEUR_IMAGE_DIGEST=digest, OMP_NUM_THREADS="1")
        (folder / "dag.log").write_text(done.text)
        assert done.status == 0, done.text[-6000:]
        answers = {answer["stage"]: answer for answer in done.answers()}
        for answer in done.answers():
            say(f"{answer['stage']:<15} {answer.get('seconds', 0):6.1f} s  {answer.get('ref', '')}")
        assert {*STAGES, *AROUND} <= set(answers)
        _check_outputs(done, answers)
        _check_registry(uri, digest, folder)
    owners = {path.stat().st_uid for path in (home / "workspace").rglob("*")}
    assert owners == {USER}
    say(f"{len(done.answers())} tasks in {time.monotonic() - start:.0f} s")


def _check_outputs(done: runs.Done, answers: dict[str, Any]) -> None:
    for stage in STAGES:
        (output,) = done.outputs(stage.replace("_", "-"))
        assert not answers[stage]["reused"]
        assert answers[stage]["ref"].startswith(f"{stage}-")
        if stage == "gate":
            assert json.loads(output["Output"])["passed"] is True
        else:
            assert output["Output"] == answers[stage]["ref"]
        assert (done.folder / "workspace/store/entries" / answers[stage]["ref"]).is_dir()
    assert answers["promote"]["version"] == "1"


def _check_registry(uri: str, digest: str, folder: Path) -> None:
    from mlflow import MlflowClient

    from deploy.pull import output_difference, pull

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert str(client.get_model_version_by_alias("mini", "champion").version) == "1"
    experiment = client.get_experiment_by_name("secateur-digits")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = (one for one in found if one.data.tags.get("secateur.role") == "pipeline")
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["secateur.verdict"] == "pass"
    children = [one for one in found if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(one.data.tags["secateur.stage"] for one in children) == sorted(STAGES)
    assert {one.data.tags.get("image.digest") for one in children} == {digest}
    worst = output_difference(pull("models:/mini@champion", folder / "pulled", uri=uri))
    assert worst <= 1e-5
    say(f"mini@champion is version 1; pulled, its outputs differ by {worst:.1e} from those that were stored")


def test_the_control_fails_where_it_must_and_only_there(running, facts, folder):
    for name in ("sound", "broken"):
        shutil.rmtree(folder / name, ignore_errors=True)
    sound = runs.run(running, NAME, "control", folder / "sound", {"is_broken": False})
    assert sound.status == 0, sound.text[-3000:]
    assert sound.outputs("attempt") == [{"Output": WRITABLE}]
    assert sound.outputs("follow") == [{"Output": f"after: {WRITABLE}"}]
    broken = runs.run(running, NAME, "control", folder / "broken", {"is_broken": True})
    assert broken.status != 0
    assert "RuntimeError: broken on purpose" in broken.text
    assert broken.outputs("attempt") == []
    assert broken.outputs("follow") == []
    say(f"control: {WRITABLE}; the broken one ended with status {broken.status} and no outputs")


def test_a_second_build_comes_from_the_cache(running, built, facts):
    start = time.monotonic()
    said = make(running, "image", REVISION="another")
    seconds = time.monotonic() - start
    steps = set(re.findall(r"^#(\d+) \[[^]]*\] (?:RUN|COPY|WORKDIR)", said, re.MULTILINE))
    cached = set(re.findall(r"^#(\d+) CACHED", said, re.MULTILINE))
    assert steps
    assert steps - cached == set(), said
    assert inspect(running)["RootFS"] == facts["RootFS"]
    assert inspect(running)["Id"] != facts["Id"]
    say(f"second build {seconds:.1f} s, {len(steps)} steps, all from the cache")
