"""Writes tests/testdata/formats/dequantize.gguf, which the tests of src/formats read.

Needs the packages `gguf` and `numpy`:  pip install gguf==0.19.0 numpy
Run from the repository's root:         python tools/make_dequantize_golden.py

The file holds, for every encoding that the reader supports, one tensor `<name>` of random blocks and one
tensor `<name>.expected` with the float32 numbers that the package expands them to, and metadata of every kind
of value. Blocks are random bytes with finite scales, subnormal ones among them.
"""

from pathlib import Path

import gguf
import numpy as np

ROWS, COLUMNS, WIDE_COLUMNS = 5, 96, 512  # rows of blocks of 256 are wide
TARGET = Path("tests/testdata/formats/dequantize.gguf")


def random_halves(rng: np.random.Generator, count: int) -> np.ndarray:
    """Bits of finite float16 numbers of either sign, zero and subnormals included."""
    bits = rng.integers(0, 0x7C00, count, dtype=np.uint16) | (rng.integers(0, 2, count, dtype=np.uint16) << 15)
    bits[: min(4, count)] = [0x0000, 0x0001, 0x83FF, 0x7BFF][: min(4, count)]
    return bits


def random_blocks(
    rng: np.random.Generator, kind: gguf.GGMLQuantizationType, scales: int, first: int = 0
) -> np.ndarray:
    """[ROWS, bytes of a row]: each block holds `scales` halves from byte `first` on."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    count = ROWS * (COLUMNS if block == 32 else WIDE_COLUMNS) // block
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    data[:, first : first + 2 * scales] = (
        random_halves(rng, count * scales).reshape(count, scales).view(np.uint8)
    )
    return data.reshape(ROWS, -1)


def add_metadata(writer: gguf.GGUFWriter) -> None:
    writer.add_uint8("test.u8", 200)
    writer.add_int8("test.i8", -100)
    writer.add_uint16("test.u16", 60000)
    writer.add_int16("test.i16", -30000)
    writer.add_uint32("test.u32", 4_000_000_000)
    writer.add_int32("test.i32", -2_000_000_000)
    writer.add_uint64("test.u64", 2**62)
    writer.add_int64("test.i64", -(2**62))
    writer.add_float32("test.f32", 0.5)
    writer.add_float64("test.f64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "söme text")
    writer.add_array("test.integers", [1, -2, 3])
    writer.add_array("test.numbers", [0.5, -0.25])
    writer.add_array("test.flags", [True, False, True])
    writer.add_array("test.strings", ["a", "", "Ġhello"])


def main() -> None:
    rng = np.random.default_rng(7)
    kinds = gguf.GGMLQuantizationType
    plain = rng.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    bf16 = (plain.view(np.uint32) >> 16).astype(np.uint16)
    tensors = {
        "F32": (plain, kinds.F32),
        "F16": (random_halves(rng, ROWS * COLUMNS).reshape(ROWS, COLUMNS).view(np.float16), kinds.F16),
        "BF16": (bf16.view(np.uint8), kinds.BF16),
        "Q8_0": (random_blocks(rng, kinds.Q8_0, 1), kinds.Q8_0),
        "Q4_0": (random_blocks(rng, kinds.Q4_0, 1), kinds.Q4_0),
        "Q4_1": (random_blocks(rng, kinds.Q4_1, 2), kinds.Q4_1),
        "Q5_0": (random_blocks(rng, kinds.Q5_0, 1), kinds.Q5_0),
        "Q5_1": (random_blocks(rng, kinds.Q5_1, 2), kinds.Q5_1),
        "Q4_K": (random_blocks(rng, kinds.Q4_K, 2), kinds.Q4_K),
        "Q5_K": (random_blocks(rng, kinds.Q5_K, 2), kinds.Q5_K),
        "Q6_K": (random_blocks(rng, kinds.Q6_K, 1, 208), kinds.Q6_K),
        "IQ4_NL": (random_blocks(rng, kinds.IQ4_NL, 1), kinds.IQ4_NL),
    }
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(TARGET, "test")
    add_metadata(writer)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
        expected = gguf.quants.dequantize(data, kind).astype(np.float32)
        assert expected.shape[0] == ROWS and np.isfinite(expected).all(), name
        writer.add_tensor(name + ".expected", expected)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
