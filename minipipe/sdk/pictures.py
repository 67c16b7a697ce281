"""Pictures and other files as reports: what they are, and their bytes. PNG is written here, so that no library is needed for it."""

from __future__ import annotations

import io
import mimetypes
import struct
import zlib
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.sdk import auto

_MODES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> PNG's colour type


def media_type(name: str) -> str:
    """What a file is, by its name: "image/png", "audio/x-wav" …"""
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


def png_of(image: Any) -> bytes:
    """A picture as PNG.

    Args:
        image: a NumPy array of height x width, or height x width x channels (1 grey, 2 with alpha, 3 RGB, 4 RGBA), whole numbers
            from 0 to 255 or floats up to 1.0 (ClearML's rule); or a Pillow image.

    Raises:
        UsageError: neither.
    """
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()
    if not hasattr(image, "dtype") or not hasattr(image, "shape"):
        raise errors.UsageError("an image is a NumPy array or a Pillow image", f"this is {type(image).__name__}")
    shape = tuple(image.shape)
    if len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] not in _MODES):
        raise errors.UsageError("an image has the shape (height, width) or (height, width, 1 to 4)", f"this one has {shape}")
    if image.dtype.kind == "f" and float(image.max()) <= 1.0:
        image = image * 255
    if image.dtype != "uint8":
        image = image.clip(0, 255).astype("uint8")
    return _png(image.tobytes(), shape[1], shape[0], shape[2] if len(shape) == 3 else 1)


def _png(pixels: bytes, width: int, height: int, channels: int) -> bytes:
    stride = width * channels
    lines = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, stride * height, stride))  # 0: no filter
    head = struct.pack(">IIBBBBB", width, height, 8, _MODES[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines, 6)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def figure_png(figure: Any) -> bytes:
    """A Matplotlib figure, or ``pyplot`` for its current one, as PNG.

    Raises:
        UsageError: neither.
    """
    figure = figure.gcf() if hasattr(figure, "gcf") else figure
    if not hasattr(figure, "savefig"):
        raise errors.UsageError("this is no Matplotlib figure", f"it is {type(figure).__name__}")
    buffer = io.BytesIO()
    with auto.aside():  # or it would be captured as a figure that the script saved
        figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def existing(path: Any) -> Path:
    """A file that is there.

    Raises:
        UsageError: it is not.
    """
    found = Path(path)
    if not found.is_file():
        raise errors.UsageError(f"no file {found} to report")
    return found
