"""Reader of torch weights files without torch: NumPy and a restricted unpickler.

It supports the legacy format (five pickles, then raw storages) and the zip archive. Unpickling can run any function
that a file names, so this reader resolves only the names that tensors need and refuses all others.
"""

import collections
import io
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfx_finetune.core.errors import UserError, first_line

_MAGIC = 0x1950A86A20F9469CFC6C
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class _Storage(NamedTuple):
    """Key, dtype and number of values of a torch storage."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """View of a storage; offset and strides count values."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a saved state dict.

    Args:
        path: Path of a `.pth` or `.pt` file.

    Returns:
        Tensors by name.

    Raises:
        UserError: If the file is not a state dict, is truncated, or refers to anything but tensors.
    """
    try:
        state = _read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path)
    except _RefusedError as error:
        raise UserError("The torch file contains more than weights", got=f"{path} ({error})") from None
    except Exception as error:
        # A damaged pickle can end in any error.
        raise UserError("The torch file cannot be read", got=f"{path} ({first_line(error)})") from None
    return {name: value for name, value in state.items() if isinstance(value, np.ndarray)}


class _RefusedError(Exception):
    """Error of a file that refers to something other than tensors."""


class _Unpickler(pickle.Unpickler):
    """Unpickler that resolves only the names that tensors need."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, offset, size, stride, *_: _Tensor(
                storage, offset, tuple(size), tuple(stride)
            ),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
        }
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        if (module, name) not in allowed:
            raise _RefusedError(f"it refers to {module}.{name}")
        return allowed[module, name]

    def persistent_load(self, identifier: Any) -> _Storage:
        type_name, dtype, key, _, count, *view = identifier
        if type_name != "storage" or any(view):
            raise _RefusedError("unknown kind of storage")
        return self.storages.setdefault(key, _Storage(key, np.dtype(dtype), int(count)))


def _read_legacy(path: Path) -> dict[str, Any]:
    """Read the format of torch before 1.6."""
    with path.open("rb") as stream:
        if _Unpickler(stream).load() != _MAGIC or _Unpickler(stream).load() != 1001:
            raise ValueError("wrong magic number")
        if not _Unpickler(stream).load().get("little_endian", True):
            raise ValueError("big-endian")
        unpickler = _Unpickler(stream)
        state = unpickler.load()
        buffers = {}
        for key in _Unpickler(stream).load():
            storage = unpickler.storages[key]
            count = int(np.frombuffer(stream.read(8), "<i8")[0])
            if count != storage.size:
                raise ValueError("wrong size of a storage")
            buffers[key] = np.frombuffer(stream.read(count * storage.dtype.itemsize), storage.dtype, count)
        if stream.read(1):
            raise ValueError("bytes after the end")
    return {name: _convert_to_array(value, buffers) for name, value in state.items()}


def _read_zip(path: Path) -> dict[str, Any]:
    """Read the zip archive format of torch 1.6 and later."""
    with zipfile.ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), "")
        if not name:
            raise ValueError("no data.pkl")
        root = name.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("big-endian")
        unpickler = _Unpickler(io.BytesIO(archive.read(name)))
        state = unpickler.load()
        buffers = {
            key: np.frombuffer(archive.read(f"{root}data/{key}"), storage.dtype, storage.size)
            for key, storage in unpickler.storages.items()
        }
    return {name: _convert_to_array(value, buffers) for name, value in state.items()}


def _convert_to_array(value: Any, buffers: dict[str, np.ndarray]) -> Any:
    """Convert a tensor to a NumPy array, and return other values unchanged."""
    if not isinstance(value, _Tensor):
        return value
    base = buffers[value.storage.key]
    stop = value.offset + 1 + sum((n - 1) * s for n, s in zip(value.shape, value.stride, strict=True))
    if min((value.offset, *value.stride)) < 0 or (0 not in value.shape and stop > base.size):
        raise ValueError("tensor exceeds its storage")
    # With a stride of 0, a small storage would expand to a tensor of any size.
    if math.prod(value.shape) > base.size:
        raise ValueError("tensor larger than its storage")
    strides = [step * base.itemsize for step in value.stride]
    return np.lib.stride_tricks.as_strided(base[value.offset :], value.shape, strides).copy()


def to_keras(tensor: np.ndarray, depthwise: bool) -> np.ndarray:
    """Transpose a torch weight to Keras's layout.

    Args:
        tensor: Dense kernel (out, in), convolution kernel (out, in, height, width), depthwise kernel (channels, 1,
            height, width), or any other tensor.
        depthwise: True for a depthwise kernel.

    Returns:
        Dense kernel (in, out), convolution kernel (height, width, in, out), depthwise kernel (height, width, channels,
        1), or the tensor unchanged.

    Examples:
        >>> to_keras(np.zeros((8, 3, 5, 5)), depthwise=False).shape
        (5, 5, 3, 8)
    """
    if tensor.ndim == 4:
        return tensor.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
    return tensor.T if tensor.ndim == 2 else tensor
