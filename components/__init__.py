"""Kubeflow components: one folder a stage, each a typed signature around one call of `deploy.step`."""
