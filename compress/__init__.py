"""Secateur's library: prune, search, distil and measure vision models.

Knows no Kubeflow, MLflow, ONNX Runtime or TensorRT. `deploy` is the package that does.
"""

__version__ = "0.1.0"
