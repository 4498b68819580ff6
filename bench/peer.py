"""A program that times one package's kernels: ``python peer.py '{"program": …}'`` prints JSON.

It runs in the peers' environment as well as in ours, so it imports nothing but NumPy and the
package that it times. Each package allocates its result; ntk_numba allocates it only once if the
job says "reuse". The memory beyond the result is the peak of the process, minus the memory that was
resident before the call, minus the bytes of the result.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Compute = Callable[[np.ndarray], list[np.ndarray]]


def ntk_numba(job: dict[str, Any]) -> Compute:
    """Return a call of ntk_numba."""
    import ntk_numba as nk

    net = nk.MLP(job["depth"], "relu", 1.0, job["b_std"])
    out: list[nk.Gram | None] = [None]

    def compute(x: np.ndarray) -> list[np.ndarray]:
        result = nk.gram(net, x, kernels=job["kernels"], out=out[0])
        if job["reuse"]:
            out[0] = result
        return [k for k in result if k is not None]

    return compute


def neural_tangents(job: dict[str, Any]) -> Compute:
    """Return a call of neural-tangents, jitted."""
    import jax

    jax.config.update("jax_enable_x64", job["dtype"] == "float64")
    from neural_tangents import stax

    layers = []
    for _ in range(job["depth"]):
        layers += [stax.Dense(1, 1.0, job["b_std"], parameterization="ntk"), stax.Relu()]
    kernel = jax.jit(stax.serial(*layers[:-1])[2], static_argnames="get")
    get = tuple(job["kernels"])
    return lambda x: [np.asarray(k) for k in jax.block_until_ready(kernel(x, None, get))]


def scikit_ntk(job: dict[str, Any]) -> Compute:
    """Return a call of scikit-ntk, scaled to our Θ.

    Its σ_w is √2, except in the first layer, where it is √n0; its Θ is divided by L·(1 + β²).
    """
    from skntk import NeuralTangentKernel

    kernel = NeuralTangentKernel(job["depth"] - 1, job["b_std"])
    first = 2 ** (job["depth"] - 1) * job["n0"]
    scale = job["depth"] * (1 + job["b_std"] ** 2) / first
    return lambda x: [scale * kernel(x)]


def memory(field: str) -> int:
    """Return a number of bytes that Linux reports about this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def main() -> None:
    """Warm up, measure and print the result."""
    job = json.loads(sys.argv[1])
    x = np.random.default_rng(0).standard_normal((job["n"], job["n0"])).astype(job["dtype"])
    compute = globals()[job["program"]](job)
    seconds, beyond, entries = [], 0, []
    compute(x)
    for _ in range(job["repeats"]):
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        before = memory("VmRSS")
        start = time.perf_counter()
        result = compute(x)
        seconds.append(time.perf_counter() - start)
        beyond = max(beyond, memory("VmHWM") - before - sum(k.nbytes for k in result))
        entries = [[float(k[i, i // 2]) for i in range(0, job["n"], 97)] for k in result]
        del result
    print(json.dumps({"seconds": seconds, "beyond": beyond, "entries": entries}))


if __name__ == "__main__":
    main()
