"""Kubeflow pipelines: one file a DAG, no logic."""
