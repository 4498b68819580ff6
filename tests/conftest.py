"""What many tests share: the real data, a small data set with every awkward pair in it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="write tests/golden/ anew")


@pytest.fixture
def write_golden(request: pytest.FixtureRequest) -> bool:
    """Whether the answers of slow oracles are to be kept, see recorded.py."""
    return request.config.getoption("write_golden")


@pytest.fixture(scope="session")
def digits() -> NDArray[np.uint8]:
    with np.load(ROOT / "data" / "digits.npz") as archive:
        return archive["x"]


@pytest.fixture
def points() -> NDArray[np.float64]:
    """150 × 7: random, duplicate, nearly equal, parallel, opposite and zero rows, mixed norms."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((150, 7))
    x[10] = x[140] = x[71]
    x[20] = x[21] * (1 + 1e-12)
    x[30] = x[31] + 1e-9
    x[40] = 3 * x[41]
    x[50] = -x[51]
    x[60] = 0
    x[70:90] *= np.logspace(-8, 8, 20)[:, None]
    return x
