"""Which library's model a file holds, by its name (ClearML's names and endings)."""

from __future__ import annotations

_ENDINGS: dict[str, tuple[str, ...]] = {
    ".pb": ("TensorFlow", "TensorFlow_js", "ONNX"),
    ".meta": ("TensorFlow",),
    ".pbtxt": ("TensorFlow", "ONNX"),
    ".zip": ("TensorFlow",),
    ".tgz": ("TensorFlow",),
    ".tar.gz": ("TensorFlow",),
    "model.json": ("TensorFlow_js",),
    ".tflite": ("TensorFlow_Lite",),
    ".pth": ("PyTorch",),
    ".pt": ("PyTorch",),
    ".caffemodel": ("Caffe",),
    ".prototxt": ("Caffe",),
    ".onnx": ("ONNX",),
    ".h5": ("Keras",),
    ".hdf5": ("Keras",),
    ".keras": ("Keras",),
    ".model": ("MXNet", "CNTK", "XGBoost"),
    ".cntk": ("CNTK",),
    ".t7": ("Torch",),
    ".cfg": ("Darknet",),
    "__model__": ("PaddlePaddle",),
    ".pkl": ("ScikitLearn", "Keras", "XGBoost", "MegEngine"),
    ".parquet": ("Parquet",),
    ".cbm": ("CatBoost",),
    ".plan": ("TensorRT",),
}


def framework_of(name: str, packed: bool = False) -> str:
    """The library that a file of this name belongs to first of all, "" if nobody can tell; a package of files says nothing."""
    lower = name.lower()
    found = [frameworks[0] for ending, frameworks in _ENDINGS.items() if lower.endswith(ending)]
    return found[0] if found and not packed else ""
