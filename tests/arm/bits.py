"""Digests of the kernels of all activations, and comparisons of two processors.

``python tests/arm/bits.py FILE.npz`` computes what `tests/engine/test_bits.py` does, prints the
digests, and saves the entries. ``python tests/arm/bits.py FILE.npz OTHER.npz`` prints which
kernels differ between two such files, in how many entries, and by how much.
"""

import hashlib
import json
import platform
import sys
from pathlib import Path
from unittest import mock

import llvmlite.binding as llvm
import numpy as np

TESTS = Path(__file__).parent.parent


def entries(nets, x, dtype, threads):
    """Return all matrices of `test_bits.digest` one after the other, (matrices, rows, rows)."""
    import ntk_numba as nk

    arrays = [
        a for net in nets for a in nk.gram(net, x, dtype=dtype, layers="all", threads=threads)
    ]
    return np.concatenate([np.reshape(a, (-1, len(x), len(x))) for a in arrays])


def compute():
    """Return the entries by dtype and name, as ``"float64 relu"``."""
    sys.path[:0] = [str(TESTS), str(TESTS / "engine")]
    import test_bits

    with mock.patch.object(test_bits, "digest", entries):
        return {
            f"{dtype} {name}": array
            for dtype in test_bits.DTYPES
            for name, array in test_bits.compute(dtype, 1).items()
        }


def digests(found):
    """Return the digests of entries, which are those of `test_bits.compute`."""
    return {name: hashlib.sha256(array.tobytes()).hexdigest()[:16] for name, array in found.items()}


def differences(found, other):
    """Return a sentence for each name with other bits, with the largest difference.

    It is relative to √(K(x, x) K(x', x')), since entries of orthogonal samples are 0 or a rounding
    error. The unit is eps of the dtype.
    """
    lines = []
    for name in sorted(found.keys() | other.keys()):
        if name not in found or name not in other:
            lines.append(f"{name}: only in one file")
            continue
        a, b = found[name], other[name]
        unlike = (a.view(np.uint8) != b.view(np.uint8)).reshape(a.size, -1).any(axis=1)
        if unlike.any():
            lengths = np.sqrt(np.diagonal(a, axis1=1, axis2=2))
            scale = lengths[:, :, None] * lengths[:, None, :] * np.finfo(a.dtype).eps
            units = (np.abs(a - b) / np.maximum(scale, np.finfo(a.dtype).tiny)).max()
            lines.append(f"{name}: {unlike.sum()} of {a.size} entries, at most {units:.3g} eps")
    return lines


def main(paths):
    if len(paths) == 2:
        first, second = (dict(np.load(path)) for path in paths)
        lines = differences(first, second)
        print(*lines, f"{len(first) - len(lines)} of {len(first)} are equal.", sep="\n")
    else:
        found = compute()
        processor = f"{platform.machine()} {llvm.get_host_cpu_name()}"
        print(json.dumps({processor: digests(found)}, indent=1))
        np.savez(paths[0], **found)


if __name__ == "__main__":
    main(sys.argv[1:])
