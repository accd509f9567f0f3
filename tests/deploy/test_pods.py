"""What the manifests of KServe and Trainer say alike."""

from __future__ import annotations

import pytest

from deploy import kserve, pods, trainjob


@pytest.mark.parametrize("image", ["net", "net:latest", "registry.example:5000/net", "registry.example/net:latest"])
def test_both_kinds_of_manifests_refuse_an_image_that_moves(image: str) -> None:
    with pytest.raises(ValueError, match="give a tag or a digest"):
        trainjob.Training(name="a", image=image, task="digits")
    with pytest.raises(ValueError, match=r"triton_image .* give a tag or a digest"):
        kserve.Serving(name="a", model="models:/a@b", triton_image=image)


def test_variables_may_be_missing_and_an_empty_name_means_none() -> None:
    (one,) = pods.secret_env("s3", ["KEY"])
    assert one == {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "KEY", "optional": True}}}
    (one,) = pods.config_env("facts", ["KEY"])
    assert one == {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "facts", "key": "KEY", "optional": True}}}
    assert pods.secret_env("", ["KEY"]) == pods.config_env("", ["KEY"]) == []


def test_containers_get_no_rights() -> None:
    for is_read_only in (True, False):
        made = pods.container_security(is_root_read_only=is_read_only)
        assert made["readOnlyRootFilesystem"] is is_read_only
        assert (made["runAsNonRoot"], made["allowPrivilegeEscalation"]) == (True, False)
        assert made["capabilities"] == {"drop": ["ALL"]}
