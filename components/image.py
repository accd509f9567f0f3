"""The container image that components run in; read when a pipeline is compiled."""

import os

#: Set SECATEUR_IMAGE, best with a digest (`…@sha256:…`): Kubeflow caches on the image's name.
IMAGE = os.environ.get("SECATEUR_IMAGE", "ghcr.io/secateur/secateur-python:0.1.0")
