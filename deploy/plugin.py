"""What `deploy` adds to the library's families; named by the entry point group `secateur.plugins`.

Importing this module registers the pieces. None of them imports its heavy package before it is used.
"""

import importlib

MODULES = (
    "deploy.s3",
    "deploy.runtime.onnxruntime",
    "deploy.runtime.tensorrt",
    "deploy.export.quantized_onnx",
    "deploy.stages.export",
)

for _name in MODULES:
    try:
        importlib.import_module(_name)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("deploy"):
            raise
