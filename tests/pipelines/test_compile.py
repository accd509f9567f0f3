"""The committed intermediate representation is what the pipeline compiles to, and says what it should."""

import yaml

from pipelines import compile as compiling


def documents() -> tuple[dict, dict]:
    spec, platform = yaml.safe_load_all(compiling.OUTPUT.read_text())
    return spec, platform


def test_committed_representation_is_not_stale():
    assert compiling.drift(compiling.OUTPUT) == ""


def test_check_shows_a_difference(tmp_path, capsys):
    path = tmp_path / "compress.yaml"
    assert compiling.main(["--output", str(path)]) == 0
    assert compiling.main(["--output", str(path), "--check"]) == 0
    path.write_text(path.read_text().replace("Delete", "").replace("nvidia.com/gpu", "tpu"))
    assert compiling.main(["--output", str(path), "--check"]) == 1
    assert "run `make ir`" in capsys.readouterr().err


def test_another_version_of_the_sdk_is_no_difference(tmp_path):
    path = tmp_path / "compress.yaml"
    path.write_text(compiling.OUTPUT.read_text().replace("sdkVersion: kfp-2", "sdkVersion: kfp-9"))
    assert compiling.drift(path) == ""


def tasks() -> dict[str, dict]:
    spec, _ = documents()
    dags = [spec["root"], *(part for part in spec["components"].values() if "dag" in part)]
    return {name: task for dag in dags for name, task in dag["dag"]["tasks"].items()}


def cached_tasks() -> dict[str, dict]:
    """Tasks that Kubeflow may skip. It looks at components only, not at pipelines within pipelines."""
    return {
        name: task
        for name, task in tasks().items()
        if task.get("cachingOptions", {}).get("enableCache") and not name.endswith("students")
    }


def test_stages_are_cached_and_what_looks_outside_is_not():
    stages = {"train", "search", "prune", "distill", "finetune-quant", "export", "cascade", "evaluate", "gate"}
    assert set(cached_tasks()) == stages


def test_no_cached_task_is_given_the_identity_of_the_run():
    for name, task in cached_tasks().items():
        given = task["inputs"]["parameters"]["parent_run"]
        inner = given.get("componentInputParameter", "")
        assert given.get("runtimeValue", {}).get("constant") == "" or inner.endswith("stage_run"), name
    students = next(task for name, task in tasks().items() if "students" in name)
    assert students["inputs"]["parameters"]["stage_run"] == {"runtimeValue": {"constant": ""}}


def test_every_task_is_tried_again_with_a_growing_pause():
    for name, task in tasks().items():
        if "cachingOptions" in task and "students" not in name:
            assert task["retryPolicy"]["maxRetryCount"] == 2, name
            assert task["retryPolicy"]["backoffFactor"] == 2.0


def test_heavy_stages_get_hardware_from_the_run():
    spec, platform = documents()
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in ("train", "search", "prune", "distill", "finetune-quant", "export", "cascade", "evaluate"):
        resources = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]["resources"]["accelerator"]
        assert "gpu_limit" in resources["resourceCount"]
        assert "gpu_type" in resources["resourceType"]
        placed = executors[f"exec-{name}"]
        assert placed["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
        assert "node_selector" in placed["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"]
        assert "tolerations" in placed["tolerations"][0]["tolerationJson"]["componentInputParameter"]
    assert "accelerator" not in spec["deploymentSpec"]["executors"]["exec-gate"]["container"].get("resources", {})
    for placed in executors.values():
        assert placed["pvcMount"][0]["mountPath"] == "/workspace"
        assert placed["fieldPathAsEnv"][0]["name"] == "SECATEUR_PIPELINE_RUN"


def test_the_run_is_closed_whatever_happens():
    spec, _ = documents()
    closing = spec["root"]["dag"]["tasks"]["close-run"]
    assert closing["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert closing["inputs"]["parameters"]["pipeline_run"]["runtimeValue"]["constant"] == "{{$.pipeline_job_uuid}}"


def test_no_component_installs_anything():
    assert "pip install" not in compiling.OUTPUT.read_text()
