"""TFLite metadata of a file, which LiteRT and Android tools read.

The metadata is a flat buffer of the public schema (https://ai.google.dev/edge/litert/conversion/tensorflow/metadata,
identifier M001) in the buffer `TFLITE_METADATA` of the model. The label files follow the model as a zip archive.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from flatbuffers.table import Table
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

_NAME = b"TFLITE_METADATA"
# Constants of the schema: kinds of union members and of associated files.
_IMAGE, _NORMALIZATION = 2, 1
_RGB, _GRAY = 1, 2
_AXIS_LABELS = 2


class Byte(NamedTuple):
    """Number that the schema stores in eight bits."""

    value: int


def add_metadata(
    content: bytes, metadata: Mapping[str, str], channels: Mapping[str, int], labels: Mapping[str, Sequence[str]]
) -> bytes:
    """Return the file with metadata.

    Args:
        content: TFLite file with a signature.
        metadata: `name`, `description`, `version`, `author`, `license`; missing entries are left out.
        channels: Number of channels of each input by name: 3 for RGB, 1 for grayscale, 0 for inputs other than images.
        labels: Class names by output.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    outputs = _list_output_names(model)
    files = make_label_files(labels)
    input_tables = [_describe_input(name, channels[name]) for name in _list_input_names(model)]
    output_tables = [_describe_output(name, _make_associated_files(files, name)) for name in outputs]
    values = [metadata.get(key) or None for key in ("name", "description", "version", "author", "license")]
    root = (*values[:3], [(None, None, input_tables, output_tables)], *values[3:], None, "1.0.0")
    model.buffers.append(schema.BufferT(data=np.frombuffer(_encode(root), np.uint8)))
    model.metadata = [*(model.metadata or ()), schema.MetadataT(name=_NAME, buffer=len(model.buffers) - 1)]
    stream = io.BytesIO(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    with zipfile.ZipFile(stream, "a") as archive:
        for file, text in files.values():
            archive.writestr(zipfile.ZipInfo(file), text)  # dated 1980, so that the same model gives the same file
    return stream.getvalue()


def read_metadata(content: bytes) -> dict[str, Any]:
    """Read the metadata of a TFLite file; empty if it has none.

    Returns:
        `name`, `description`, `version`, `author`, `license`, `inputs` and `outputs` (names), and `labels` by output.
    """
    model = schema.Model.GetRootAs(content)
    entries = [model.Metadata(index) for index in range(model.MetadataLength())]
    buffer_index = next((entry.Buffer() for entry in entries if entry.Name() == _NAME), None)
    if buffer_index is None:
        return {}
    packed = model.Buffers(buffer_index).DataAsNumpy().tobytes()
    root = Table(packed, flatbuffers.encode.Get(flatbuffers.packer.uoffset, packed, 0))
    (graph,) = _read_tables(root, 3)
    slots = {"name": 0, "description": 1, "version": 2, "author": 4, "license": 5}
    texts = {key: text for key, slot in slots.items() if (text := _read_text(root, slot))}
    inputs, outputs = ([_read_text(tensor, 0) for tensor in _read_tables(graph, slot)] for slot in (2, 3))
    labels = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, tensor in zip(outputs, _read_tables(graph, 3), strict=True):
            for file in _read_tables(tensor, 6):
                labels[name] = archive.read(_read_text(file, 0)).decode().splitlines()
    return texts | {"inputs": inputs, "outputs": outputs, "labels": labels}


def _describe_input(name: str, channels: int) -> tuple:
    """Return the metadata table of an input."""
    if not channels:
        return (name, "as tfx_finetune prepares it")
    image = (Byte(_RGB if channels == 3 else _GRAY), None)
    # The graph normalizes, so that the metadata state mean 0 and std 1 for pixels of 0 to 255.
    normalization = (Byte(_NORMALIZATION), ([0.0], [1.0]))
    description = "an image, pixel values 0 to 255"
    return (name, description, None, (Byte(_IMAGE), image), [normalization], ([255.0], [0.0]))


def _describe_output(name: str, labels: list[tuple] | None) -> tuple:
    """Return the metadata table of an output."""
    if labels is None:
        descriptions = {
            "boxes": "left, top, right, bottom as fractions of the image",
            "mask": "the class of each pixel",
        }
        return (name, descriptions.get(name.rpartition("/")[2], "the embedding of the sample"))
    return (name, "a score for each class", None, None, None, ([1.0], [0.0]), labels)


def _list_input_names(model: Any) -> list[str]:
    """Return the names of the signature's inputs in the order of the graph."""
    (signature,) = model.signatureDefs
    names = {entry.tensorIndex: entry.name.decode() for entry in signature.inputs}
    return [names[index] for index in model.subgraphs[0].inputs]


def _list_output_names(model: Any) -> list[str]:
    """Return the names of the signature's outputs in the order of the graph, without the suffix `/scores`."""
    (signature,) = model.signatureDefs
    names = {entry.tensorIndex: entry.name.decode() for entry in signature.outputs}
    return [names[index].removesuffix("/scores") for index in model.subgraphs[0].outputs]


def make_label_files(labels: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Return the name and content of each output's label file; the first is `labels.txt`, which all tools read.

    Examples:
        >>> make_label_files({"animal": ["cat", "dog"], "color": ["red"]})["color"]
        ('labels.color.txt', 'red\\n')
    """
    return {
        name: ("labels.txt" if index == 0 else f"labels.{name}.txt", "".join(f"{line}\n" for line in lines))
        for index, (name, lines) in enumerate(labels.items())
    }


def _make_associated_files(files: Mapping[str, tuple[str, str]], name: str) -> list[tuple] | None:
    return [(files[name][0], None, Byte(_AXIS_LABELS))] if name in files else None


def _encode(root: tuple) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, root), file_identifier=b"M001")
    return bytes(builder.Output())


def _write_table(builder: flatbuffers.Builder, fields: tuple) -> int:
    """Write a table of the schema: a tuple of its fields in order, with None for missing ones."""
    parts = [value if value is None or isinstance(value, Byte) else _write_field(builder, value) for value in fields]
    builder.StartObject(len(parts))
    for slot, part in enumerate(parts):
        if isinstance(part, Byte):
            builder.PrependUint8Slot(slot, part.value, 0)
        elif part is not None:
            builder.PrependUOffsetTRelativeSlot(slot, part, 0)
    return builder.EndObject()


def _write_field(builder: flatbuffers.Builder, value: Any) -> int:
    """Write a text, a table, or a list of numbers or tables."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, tuple):
        return _write_table(builder, value)
    if isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    offsets = [_write_table(builder, item) for item in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _read_text(table: Table, slot: int) -> str:
    offset = table.Offset(4 + 2 * slot)
    return table.String(table.Pos + offset).decode() if offset else ""


def _read_tables(table: Table, slot: int) -> list[Table]:
    offset = table.Offset(4 + 2 * slot)
    if not offset:
        return []
    start = table.Vector(offset)
    return [Table(table.Bytes, table.Indirect(start + 4 * index)) for index in range(table.VectorLen(offset))]
