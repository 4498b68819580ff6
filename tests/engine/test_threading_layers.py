"""Jobs by each threading layer of Numba, in fresh processes: a process can load only one."""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from interrupted import ALL, MIDDLE
from marks import marked

TESTS = Path(__file__).parent.parent
# The wheel of tbb has its library here, where no loader looks by itself
LIBRARIES = Path(sys.prefix) / "lib"
MODULES = {"workqueue": "workqueue", "omp": "omppool", "tbb": "tbbpool"}
PAIRS = list(itertools.permutations(MODULES, 2))

# Two threads of Python call all that computes in parallel
AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numba, numpy as np
import ntk_numba as nk
from test_parallel import arguments, scale

x = np.random.default_rng(0).standard_normal((150, 7))
net, y = nk.MLP(3, "relu", b_std=0.1), x[:, 0]

def loop():
    outer = arguments(2000)
    scale(outer, 2000)
    return outer.out.tobytes()

jobs = [
    loop,
    lambda: nk.gram(net, x).ntk.tobytes(),
    lambda: (nk.kernel_operator(net, x) @ y).tobytes(),
    lambda: nk.gram(net, x, gradients=True).ntk.tobytes(),
    lambda: nk.gaussian_process(net, x, y, noise=0.1).predict(x[:5]).tobytes(),
]
right = [job() for job in jobs]
with ThreadPoolExecutor(2) as pool:
    found = list(pool.map(lambda k: jobs[k]() == right[k], [0, 1, 2, 3, 4, 2, 0, 1] * 10))
print(numba.threading_layer(), found.count(True))
"""


def variables(layer):
    """Return the environment of a process with a threading layer; skip the test without it."""
    found = {**os.environ, "NUMBA_THREADING_LAYER": layer}
    found["PYTHONPATH"] = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "compiled")))
    if layer == "tbb" and (LIBRARIES / "libtbb.so.12").exists():
        found["LD_LIBRARY_PATH"] = f"{LIBRARIES}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        return found
    try:
        importlib.import_module(f"numba.np.ufunc.{MODULES[layer]}")
    except ImportError as error:
        hint = ": pip install tbb" if layer == "tbb" else ""
        pytest.skip(f"the threading layer {layer} was not tested ({error}){hint}")
    return found


def run(layer, *words):
    return subprocess.run(
        [sys.executable, *words], env=variables(layer), capture_output=True, text=True, timeout=300
    )


def job(layer, path):
    """Write or continue a file; return what `interrupted` prints."""
    answer = run(layer, TESTS / "interrupted.py", path)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["layer"] == layer
    return found


@pytest.mark.parametrize(("first", "second"), marked(pytest.mark.system, PAIRS))
def test_a_file_begun_with_one_layer_is_ended_with_another(first, second, tmp_path):
    killed = run(first, TESTS / "interrupted.py", tmp_path / "g.h5", str(MIDDLE))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = job(second, tmp_path / "g.h5")
    assert 0 < ended["tiles"] < ALL
    for layer in (first, second):
        whole = job(layer, tmp_path / f"{layer}.h5")
        assert (whole["tiles"], whole["sha256"]) == (ALL, ended["sha256"])
        assert (tmp_path / f"{layer}.h5").read_bytes() == (tmp_path / "g.h5").read_bytes()


# workqueue is the layer that two threads may not enter at once
@pytest.mark.parametrize("layer", marked(pytest.mark.system, MODULES))
def test_two_threads_of_python_call_everything_at_once(layer):
    answer = run(layer, "-c", AT_ONCE)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == [layer, "80"]
