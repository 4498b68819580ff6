"""Tests that the bits of the kernels of all activations are those of a fixture.

``python tests/engine/test_bits.py`` writes the fixture, tests/golden/bits.json. It belongs to one
`NUMERICS`, the version of the arithmetic, which goes up whenever a digest changes. Otherwise a file
that was begun with one arithmetic would be finished with another.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from unittest import mock

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
from scipy import special

ROOT = Path(__file__).parent.parent.parent
FIXTURE = ROOT / "tests" / "golden" / "bits.json"
COMMAND = "python tests/engine/test_bits.py"
DTYPES = "float64", "float32"
AVX2 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "popcnt",
        "sse", "sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "cx16", "fxsr", "xsave")  # fmt: skip

# Environment variables that make this package, NumPy and BLAS run on a processor with AVX-512 as
# they run on one without.
AVX512_OFF = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in AVX2),
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL "
    "AVX512_SPR X86_V4",
    "OPENBLAS_CORETYPE": "Haswell",
}

# Networks with code paths that the network of each activation does not reach.
SPECIAL = {
    "relu, b_std 0.1": {"depth": 4, "b_std": 0.1},
    "abs and leaky_relu": {
        "depth": 3, "activation": ["abs", "leaky_relu:0.2"], "w_std": [1, 1.2, 0.7],
    },
    "elu of large variances": {"depth": 3, "activation": "elu", "w_std": [30, 1, 1]},
    "celu of another scale": {"depth": 3, "activation": "celu:0.5"},
    "tanh to 1e-5": {"depth": 4, "activation": "tanh:1e-5"},
}  # fmt: skip
# The data of these two networks is 300 unchanged rows of the digits, which are several tiles.
OF_DIGITS = "relu, b_std 0.1", "abs and leaky_relu"


def all_digits():
    with np.load(ROOT / "data" / "digits.npz") as archive:
        return archive["x"].astype(float)


def rows():
    """Return rows of centred digits, with awkward pairs among them, (70, 8).

    All numbers are exact in float64 and have few digits, so that their means are exact too.
    """
    x = all_digits()
    x = x[:70, np.argsort(-x[:1000].var(axis=0), kind="stable")[:8]]
    x = (x - 8) / 16
    x[10] = x[3]  # a duplicate
    x[40] = 3 * x[41]  # parallel
    x[50] = -x[51]  # opposite
    x[60:64] *= 2.0**-20  # other variances
    x[64:] *= 1.5
    return x


def near_rows():
    """Return `rows` with pairs of nearly equal and nearly opposite rows."""
    x = rows()
    x[20] = x[21] * (1 + 2.0**-40)
    x[30] = x[31] + 2.0**-30
    x[52] = -x[53] * (1 - 2.0**-20) + 2.0**-35
    return x


def digest(nets, x, dtype, threads):
    """Return 16 hexadecimal digits of the SHA-256 of both kernels of all layers and networks."""
    import ntk_numba as nk

    found = hashlib.sha256()
    for net in nets:
        for array in nk.gram(net, x, dtype=dtype, layers="all", threads=threads):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def compute(dtype, threads):
    """Return all digests of a dtype by the name of the activation or network."""
    import ntk_numba as nk
    from ntk_numba.activations import names, table

    x, digits = rows(), all_digits()[:300]
    found = {}
    for name in names():
        spec = table.example(name)
        net = nk.MLP(4, [spec, "leaky_relu:0.2", spec], 0.8, 0.1)
        found[name] = digest([net], x, dtype, threads)
    for name, options in SPECIAL.items():
        data = digits if name in OF_DIGITS else x
        found[name] = digest([nk.MLP(**options)], data, dtype, threads)
    found["nearly equal rows"] = digest([nk.MLP(4)], near_rows(), dtype, threads)
    both = [nk.MLP(**SPECIAL[name]) for name in OF_DIGITS]
    found["both networks of the digits"] = digest(both, digits, dtype, threads)
    return found


def libraries():
    """Return the version of Numba, a digest of results of NumPy and SciPy here, and the maker.

    The last bits of these results depend on the processor and on the versions. So do coefficients
    of series and tables, and with them the last bits of some activations in float64. The compiler
    determines the order of the sums in a distance. Processors of AMD have other functions in
    extended precision, which are in tables too, and the compiler takes another order for them.
    """
    x = np.linspace(-3, 3, 1001)
    functions = np.exp, np.expm1, np.tanh, np.sin, np.cos, np.arctan, np.sinh, np.cosh
    values = [f(x) for f in functions]
    values += [np.log(x + 4), np.log1p(x + 3), special.expit(x), special.erf(x), special.erfcx(x)]
    values += [special.ndtr(x), x[:1000] @ values[0][:1000]]
    values.append(np.reshape(x[:1000], (20, 50)) @ np.reshape(values[0][:1000], (50, 20)))
    values.append(np.reshape(x[:1000], (20, 50)) @ values[0][:50])
    found = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in values)).hexdigest()
    maker = ", AMD" if llvm.get_host_cpu_name().startswith("znver") else ""
    return f"numba {numba.__version__}, functions {found[:16]}{maker}"


def recorded(digests, dtype):
    """Return the digests for these libraries by name, or else those equal for all libraries."""
    if libraries() in digests:
        return digests[libraries()][dtype]
    first, *others = (of[dtype] for of in digests.values())
    return {name: d for name, d in first.items() if all(o[name] == d for o in others)}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="extended precision is another one here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_of_the_numerical_version(dtype, threads):
    from ntk_numba.engine.kernel import NUMERICS

    fixture = json.loads(FIXTURE.read_text())
    assert fixture["numerics"] == NUMERICS, (
        f"engine.kernel.NUMERICS is {NUMERICS} and tests/golden/bits.json holds the bits of "
        f"{fixture['numerics']}; write it again: {COMMAND}"
    )
    found = compute(dtype, threads)
    names = set(next(iter(fixture["digests"].values()))[dtype])
    # A name that the fixture lacks is new. No file was begun with other bits, and there is nothing
    # to compare with until the fixture is written again.
    gone = sorted(names - set(found))
    assert not gone, f"nothing is called {', '.join(gone)} any more; write again: {COMMAND}"
    wanted = recorded(fixture["digests"], dtype)
    changed = [name for name in wanted if wanted[name] != found[name]]
    assert not changed, (
        f"the bits of {', '.join(changed)} have changed in {dtype}; if that is intended, raise "
        f"engine.kernel.NUMERICS and write the fixture again: {COMMAND}"
    )
    if unknown := sorted(names - set(wanted)):
        pytest.skip(
            f"the fixture has no digests of {', '.join(unknown)} for this processor and these "
            f"versions of NumPy, SciPy and Numba; all others are as recorded"
        )


def test_data_have_obtuse_angles_and_awkward_pairs():
    x = rows()
    products = x @ x.T
    assert x.shape == (70, 8) and (x[10] == x[3]).all() and (x[50] == -x[51]).all()
    assert 0.1 < (products < 0).mean() < 0.9
    assert 0.1 < np.median((x**2).mean(axis=1)) < 1


def write():
    """Write the digests of this processor and its libraries, with and without AVX-512.

    Digests of other libraries are kept if they have the same version of the arithmetic.
    """
    from ntk_numba.engine.kernel import NUMERICS

    digests = {libraries(): {dtype: compute(dtype, 1) for dtype in DTYPES}}
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, "--avx2"],
        env={**os.environ, **AVX512_OFF},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    digests.update(json.loads(answer.stdout))
    if FIXTURE.exists():
        before = json.loads(FIXTURE.read_text())
        if before["numerics"] == NUMERICS:
            digests = before["digests"] | digests
    FIXTURE.write_text(json.dumps({"numerics": NUMERICS, "digests": digests}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--avx2"]:
        with mock.patch.object(
            llvm, "get_host_cpu_features", return_value=dict.fromkeys(AVX2, True)
        ):
            print(json.dumps({libraries(): {dtype: compute(dtype, 1) for dtype in DTYPES}}))
    else:
        write()
