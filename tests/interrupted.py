"""A program that writes the Gram file of a small job, or continues it, and may be killed meanwhile.

    python interrupted.py FILE [CALLS]

It is killed after the CALLS-th call that syncs the file. Otherwise it prints a JSON object: the
threading layer, the number of tiles that it computed, and the SHA-256 of both matrices.
"""

import hashlib
import itertools
import json
import os
import signal
import sys
from typing import Any

import numba
import numpy as np

import ntk_numba as nk
from ntk_numba.compute import plan
from ntk_numba.engine.kernel import Kernel
from ntk_numba.gramfile import disk

ALL = 28  # tiles
# Their coefficients come from no function of NumPy or SciPy, whose last bits differ by version.
ACTIVATIONS = "relu", "leaky_relu:0.2", "abs", "erf", "gabor"
MIDDLE = 6  # a number of syncs after which some tiles are done and others are not


def main() -> None:
    """Do the job."""
    path, *calls = sys.argv[1:]
    plan.BATCH_BYTES = 1 << 18  # few tiles are in flight, as in a larger job
    count, tiles, sync, compute = itertools.count(1), [0], disk.sync, Kernel.compute

    def killed(*arguments: Any) -> None:
        sync(*arguments)
        if calls and next(count) == int(calls[0]):
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(self: Kernel, table: Any, *arguments: Any) -> None:
        compute(self, table, *arguments)
        tiles[0] += len(table)

    disk.sync, Kernel.compute = killed, counted  # type: ignore[method-assign]
    x = np.random.default_rng(0).integers(-9, 9, (400, 5)) / 8.0
    net = nk.MLP(len(ACTIVATIONS) + 1, ACTIVATIONS, b_std=0.1)
    with nk.write_gram(net, x, path, kernels=("nngp", "ntk"), threads=2) as file:
        entries = b"".join(matrix[:].tobytes() for matrix in (file.nngp, file.ntk))
    layer = numba.threading_layer() if tiles[0] else None
    found = {"layer": layer, "tiles": tiles[0], "sha256": hashlib.sha256(entries).hexdigest()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
