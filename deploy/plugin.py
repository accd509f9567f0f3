"""What `deploy` adds to the library's families; named by the entry point group `secateur.plugins`.

Importing this module registers the pieces. None of them imports its heavy package before it is used.
"""

import deploy.export.quantized_onnx
import deploy.runtime.aotinductor
import deploy.runtime.onnxruntime
import deploy.runtime.tensorrt
import deploy.s3
import deploy.stages.export  # noqa: F401
