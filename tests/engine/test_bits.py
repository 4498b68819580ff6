"""Tests that the bits of the kernels of all activations are those of a fixture.

``python tests/engine/test_bits.py`` writes the fixture, tests/golden/bits.json. It belongs to one
`NUMERICS`, the version of the arithmetic, which goes up whenever a digest changes. Otherwise a file
that was begun with one arithmetic would be finished with another.
"""

import hashlib
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pytest
from marks import marked
from scipy import special

ROOT = Path(__file__).parent.parent.parent
FIXTURE = ROOT / "tests" / "golden" / "bits.json"
COMMAND = "python tests/engine/test_bits.py"
DTYPES = "float64", "float32"

# Processors whose code LLVM writes on any x86, of the features that each needs and all the earlier
# ones lack. The first two have no fused multiply-add.
PROCESSORS = {
    "generic": "sse2", "nehalem": "popcnt", "sandybridge": "avx", "haswell": "avx2",
    "skylake-avx512": "avx512f", "znver4": "avx512f",
}  # fmt: skip
# Names of networks with most kinds of loops; compiling those of all takes a minute and more.
FEW = "relu", "tanh", "elu", "hard_tanh", "silu", "gelu", "relu, b_std 0.1", "nearly equal rows"
# Variables with which NumPy and BLAS run as on another processor
LIBRARIES = {
    "NumPy as with AVX2": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
    "NumPy as with SSE": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX2 FMA3 AVX512F "
        "AVX512_SKX AVX512_CLX AVX512_CNL"
    },
    "BLAS for Haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "BLAS for Nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
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


def compute(dtype, threads, chosen=None):
    """Return digests of a dtype by the name of the activation or network: all, or some."""
    import ntk_numba as nk
    from ntk_numba.activations import names, table

    x, digits = rows(), all_digits()[:300]
    jobs = {}
    for name in names():
        spec = table.example(name)
        jobs[name] = [nk.MLP(4, [spec, "leaky_relu:0.2", spec], 0.8, 0.1)], x
    for name, options in SPECIAL.items():
        jobs[name] = [nk.MLP(**options)], digits if name in OF_DIGITS else x
    jobs["nearly equal rows"] = [nk.MLP(4)], near_rows()
    jobs["both networks of the digits"] = [nk.MLP(**SPECIAL[name]) for name in OF_DIGITS], digits
    return {name: digest(*jobs[name], dtype, threads) for name in chosen or jobs}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_are_those_of_the_numerical_version(dtype, threads):
    from ntk_numba.engine.kernel import NUMERICS

    fixture = json.loads(FIXTURE.read_text())
    assert fixture["numerics"] == NUMERICS, (
        f"engine.kernel.NUMERICS is {NUMERICS} and tests/golden/bits.json holds the bits of "
        f"{fixture['numerics']}; write it again: {COMMAND}"
    )
    wanted, found = fixture["digests"][dtype], compute(dtype, threads)
    # A name that the fixture lacks is new. No file was begun with other bits, and there is nothing
    # to compare with until the fixture is written again.
    gone = sorted(set(wanted) - set(found))
    assert not gone, f"nothing is called {', '.join(gone)} any more; write again: {COMMAND}"
    changed = [name for name in wanted if wanted[name] != found[name]]
    assert not changed, (
        f"the bits of {', '.join(changed)} have changed in {dtype}; if that is intended, raise "
        f"engine.kernel.NUMERICS and write the fixture again: {COMMAND}"
    )


def computed_with(variables, names=()):
    """Return the digests of both dtypes, computed in a new process with other variables."""
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *(names or ["all"])],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **variables},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(answer.stdout)


SPOILT = {
    np: "exp exp2 expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan arctan2 sinh cosh "
    "tanh arcsinh arccosh arctanh power float_power hypot cbrt dot vdot inner outer tensordot "
    "einsum matmul geomspace logspace",
    np.linalg: "norm solve inv pinv lstsq eigh eigvalsh svd qr cholesky det",
    math: "exp expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh "
    "acosh atanh erf erfc gamma lgamma hypot pow cbrt exp2",
    special: "erf erfc erfcx erfinv expit logit ndtr ndtri log_ndtr gamma gammaln i0 i1",
}  # fmt: skip


def spoil():
    """Let the results of libraries err in the last bit, as on another processor or system."""
    for module, names in SPOILT.items():
        for name in names.split():
            setattr(module, name, _spoilt(getattr(module, name))) if hasattr(module, name) else None


def forget():
    """Clear what the package has computed once for all networks."""
    for module in [m for name, m in sys.modules.items() if name.startswith("ntk_numba")]:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


def _spoilt(function):
    def wrong(*arguments, **options):
        found = function(*arguments, **options)
        if isinstance(found, float | np.floating) or str(getattr(found, "dtype", "")) == "float64":
            return (
                type(found)(np.nextafter(found, np.inf))
                if np.ndim(found) == 0
                else np.nextafter(found, np.inf)
            )
        return found

    return wrong


def as_recorded(found):
    """Check that digests are those of the fixture."""
    wanted = json.loads(FIXTURE.read_text())["digests"]
    changed = [
        f"{name} in {dtype}"
        for dtype in DTYPES
        for name, value in found[dtype].items()
        if wanted[dtype][name] != value
    ]
    assert not changed, f"other bits: {', '.join(changed)}"


@pytest.mark.slow
@pytest.mark.parametrize("processor", PROCESSORS)
def test_bits_are_the_same_on_all_processors(processor):
    has = llvm.get_host_cpu_features()
    if platform.machine() != "x86_64" or not has.get(PROCESSORS[processor]):
        pytest.skip(f"this processor lacks {PROCESSORS[processor]}, which {processor} has")
    # without features, LLVM takes those of the name
    variables = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    as_recorded(computed_with(variables, () if processor in ("nehalem", "haswell") else FEW))


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIBRARIES)
def test_bits_do_not_depend_on_what_numpy_and_blas_find(kind):
    as_recorded(computed_with(LIBRARIES[kind]))


@pytest.mark.parametrize("which", marked(pytest.mark.slow, ["few", "all"]))
def test_bits_do_not_depend_on_functions_of_libraries(which):
    as_recorded(computed_with({"SPOIL_LIBRARIES": "1"}, FEW if which == "few" else ()))


def test_data_have_obtuse_angles_and_awkward_pairs():
    x = rows()
    products = x @ x.T
    assert x.shape == (70, 8) and (x[10] == x[3]).all() and (x[50] == -x[51]).all()
    assert 0.1 < (products < 0).mean() < 0.9
    assert 0.1 < np.median((x**2).mean(axis=1)) < 1


def write():
    """Write the digests."""
    from ntk_numba.engine.kernel import NUMERICS

    digests = {dtype: compute(dtype, 1) for dtype in DTYPES}
    FIXTURE.write_text(json.dumps({"numerics": NUMERICS, "digests": digests}, indent=1) + "\n")


if __name__ == "__main__":
    if names := sys.argv[1:]:
        chosen = None if names == ["all"] else names
        found = {dtype: compute(dtype, 1, chosen) for dtype in DTYPES}
        if os.environ.get("SPOIL_LIBRARIES"):
            forget()  # now that all is compiled, which takes NumPy's functions as they are
            spoil()
            assert math.exp(1) != math.e and np.exp(np.ones(1))[0] != math.e
            found = {dtype: compute(dtype, 1, chosen) for dtype in DTYPES}
        print(json.dumps(found))
    else:
        write()
