"""Files that a trained model is written to, each with its reader.

All but the SavedModel's `serving_default` take prepared inputs, by the towers' names, and give `<head>/scores` (batch,
classes), or of heads that find things what `predict` makes of them. Named by `--exports`.
"""

from tfx_finetune.deploy.formats import ai_edge, keras_file, onnx_file, openvino_file, saved_model, split, tflite

__all__ = ["ai_edge", "keras_file", "onnx_file", "openvino_file", "saved_model", "split", "tflite"]
