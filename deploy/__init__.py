"""Everything that knows a platform: ONNX, ONNX Runtime, TensorRT, MLflow, S3."""
