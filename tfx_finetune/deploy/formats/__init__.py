"""Export formats, selected by `--exports`: each writes a file of the trained model and reads it.

All files take prepared inputs by the names of the towers and output `<head>/scores`, or the predictions of detection
and segmentation heads. Only `serving_default` of the SavedModel takes raw inputs.
"""

from tfx_finetune.deploy.formats import ai_edge, keras_file, onnx_file, openvino_file, saved_model, split, tflite

__all__ = ["ai_edge", "keras_file", "onnx_file", "openvino_file", "saved_model", "split", "tflite"]
