import subprocess
import sys

import numba
import numpy as np
import pytest

from ntk_numba import jit


@numba.njit
def fused(a, b, c):
    return jit.fma(a, b, c)


def test_fma_rounds_once():
    a = 1 + 2.0**-52
    assert fused(a, a, -(1 + 2.0**-51)) == 2.0**-104
    a32 = np.float32(1 + 2.0**-23)
    assert fused(a32, a32, -np.float32(1 + 2.0**-22)) == np.float32(2.0**-46)


def test_cached_code_goes_stale_with_any_compiled_source(monkeypatch):
    """Numba's own cache would go on using an old formula from another file."""
    from ntk_numba.engine.tile import compute_diagonal

    cache = compute_diagonal._cache
    codegen = compute_diagonal.targetctx.codegen()
    before = cache._index_key((), codegen)
    assert before == cache._index_key((), codegen)
    monkeypatch.setattr(jit, "source_digest", lambda: "another state of the sources")
    assert cache._index_key((), codegen) != before


@pytest.mark.parametrize("first", ["4, 'relu', 1, 0.1", "7, ['abs'] * 6, 2, 0"])
def test_a_second_process_compiles_nothing(first, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    code = (
        "import ntk_numba as nk, numpy as np; from ntk_numba.engine import tile;"
        f"nk.gram(nk.MLP({first}), np.ones((3, 2)));"
        "print(sum(tile.compute_tiles.stats.cache_misses.values()))"
    )
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "1\n"
    run[2] = code.replace(first, "3, 'leaky_relu:0.2', 1, 2")
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "0\n"
