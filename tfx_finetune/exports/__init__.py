"""Files that a trained model is written to, each with its reader."""

from tfx_finetune.exports import ai_edge, keras_file, onnx_file, openvino_file, saved_model, split, tflite

__all__ = ["ai_edge", "keras_file", "onnx_file", "openvino_file", "saved_model", "split", "tflite"]
