"""TFLite metadata: what a file says about itself, where LiteRT's and Android's tools look for it.

A flat buffer of the public schema (https://ai.google.dev/edge/litert/conversion/tensorflow/metadata, identifier M001)
in the model's buffer `TFLITE_METADATA`, and the label files as a zip archive behind the model.
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
# Of the schema: kinds of members of its unions, and of files.
_IMAGE, _NORMALIZATION = 2, 1
_RGB, _GRAY = 1, 2
_AXIS_LABELS = 2


class Byte(NamedTuple):
    """A number that the schema keeps in eight bits."""

    value: int


def add_metadata(
    content: bytes, metadata: Mapping[str, str], channels: Mapping[str, int], labels: Mapping[str, Sequence[str]]
) -> bytes:
    """The file with metadata.

    Args:
        content: A TFLite file with a signature.
        about: `name`, `description`, `version`, `author`, `license`; those that are missing are left out.
        channels: Of each input that is a picture, by name: 3 is RGB, 1 grey; 0 for what is none.
        labels: Class names by output.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    outputs = _list_output_names(model)
    files = make_label_files(labels)
    sources = [_describe_input(name, channels[name]) for name in _list_input_names(model)]
    sinks = [_describe_output(name, _make_associated_files(files, name)) for name in outputs]
    said = [metadata.get(key) or None for key in ("name", "description", "version", "author", "license")]
    root = (*said[:3], [(None, None, sources, sinks)], *said[3:], None, "1.0.0")
    model.buffers.append(schema.BufferT(data=np.frombuffer(_encode(root), np.uint8)))
    model.metadata = [*(model.metadata or ()), schema.MetadataT(name=_NAME, buffer=len(model.buffers) - 1)]
    stream = io.BytesIO(bytes(flatbuffer_utils.convert_object_to_bytearray(model)))
    with zipfile.ZipFile(stream, "a") as archive:
        for file, text in files.values():
            archive.writestr(zipfile.ZipInfo(file), text)  # dated 1980: the same model gives the same file
    return stream.getvalue()


def read_metadata(content: bytes) -> dict[str, Any]:
    """What a TFLite file says about itself; empty where it says nothing.

    Returns:
        `name`, `description`, `version`, `author`, `license`, `inputs` and `outputs` (names), and `labels` by output.
    """
    model = schema.Model.GetRootAs(content)
    found = [model.Metadata(position) for position in range(model.MetadataLength())]
    place = next((entry.Buffer() for entry in found if entry.Name() == _NAME), None)
    if place is None:
        return {}
    packed = model.Buffers(place).DataAsNumpy().tobytes()
    root = Table(packed, flatbuffers.encode.Get(flatbuffers.packer.uoffset, packed, 0))
    (graph,) = _read_tables(root, 3)
    slots = {"name": 0, "description": 1, "version": 2, "author": 4, "license": 5}
    said = {key: text for key, slot in slots.items() if (text := _read_text(root, slot))}
    inputs, outputs = ([_read_text(tensor, 0) for tensor in _read_tables(graph, slot)] for slot in (2, 3))
    labels = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name, tensor in zip(outputs, _read_tables(graph, 3), strict=True):
            for file in _read_tables(tensor, 6):
                labels[name] = archive.read(_read_text(file, 0)).decode().splitlines()
    return said | {"inputs": inputs, "outputs": outputs, "labels": labels}


def _describe_input(name: str, channels: int) -> tuple:
    """What the file says of an input."""
    if not channels:
        return (name, "as tfx_finetune prepares it")
    picture = (Byte(_RGB if channels == 3 else _GRAY), None)
    # The graph normalizes by itself: pixels of 0 to 255 go in as they are.
    normalization = (Byte(_NORMALIZATION), ([0.0], [1.0]))
    said = "a picture, pixels of 0 to 255"
    return (name, said, None, (Byte(_IMAGE), picture), [normalization], ([255.0], [0.0]))


def _describe_output(name: str, labels: list[tuple] | None) -> tuple:
    """What the file says of an output."""
    if labels is None:
        said = {"boxes": "left, top, right, bottom in shares of the picture", "mask": "the class of each pixel"}
        kind = name.rpartition("/")[2]
        return (name, said.get(kind, "where the sample stands among the names of things"))
    return (name, "a score for each class", None, None, None, ([1.0], [0.0]), labels)


def _list_input_names(model: Any) -> list[str]:
    """Names of the signature's inputs in the order of the graph's."""
    (signature,) = model.signatureDefs
    names = {entry.tensorIndex: entry.name.decode() for entry in signature.inputs}
    return [names[index] for index in model.subgraphs[0].inputs]


def _list_output_names(model: Any) -> list[str]:
    """Names of the signature's outputs in the order of the graph's."""
    (signature,) = model.signatureDefs
    names = {entry.tensorIndex: entry.name.decode() for entry in signature.outputs}
    return [names[index].removesuffix("/scores") for index in model.subgraphs[0].outputs]


def make_label_files(labels: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Name and content of the file of each output's classes; the first is the one that every tool looks for."""
    return {
        name: ("labels.txt" if position == 0 else f"labels.{name}.txt", "".join(f"{line}\n" for line in lines))
        for position, (name, lines) in enumerate(labels.items())
    }


def _make_associated_files(files: Mapping[str, tuple[str, str]], name: str) -> list[tuple] | None:
    return [(files[name][0], None, Byte(_AXIS_LABELS))] if name in files else None


def _encode(root: tuple) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, root), file_identifier=b"M001")
    return bytes(builder.Output())


def _write_table(builder: flatbuffers.Builder, fields: tuple) -> int:
    """Writes a table of the schema: a tuple of its fields in order, None for one that is left out."""
    parts = [value if value is None or isinstance(value, Byte) else _write_field(builder, value) for value in fields]
    builder.StartObject(len(parts))
    for slot, part in enumerate(parts):
        if isinstance(part, Byte):
            builder.PrependUint8Slot(slot, part.value, 0)
        elif part is not None:
            builder.PrependUOffsetTRelativeSlot(slot, part, 0)
    return builder.EndObject()


def _write_field(builder: flatbuffers.Builder, value: Any) -> int:
    """Writes a text, a table, or a list of numbers or tables."""
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, tuple):
        return _write_table(builder, value)
    if isinstance(value[0], float):
        return builder.CreateNumpyVector(np.array(value, np.float32))
    offsets = [_write_table(builder, one) for one in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _read_text(table: Table, slot: int) -> str:
    place = table.Offset(4 + 2 * slot)
    return table.String(table.Pos + place).decode() if place else ""


def _read_tables(table: Table, slot: int) -> list[Table]:
    place = table.Offset(4 + 2 * slot)
    if not place:
        return []
    start = table.Vector(place)
    return [Table(table.Bytes, table.Indirect(start + 4 * one)) for one in range(table.VectorLen(place))]
