"""Answers of slow oracles, stored in tests/golden/; tests marked slow compute them again.

    python -m pytest tests/activations -m slow -k derived_again --write-golden

rewrites the files. An answer is stored as the sum of a float64 and a float32, which has more digits
than longdouble, with a digest of the points at which it was computed.
"""

import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
from mpmath import mpf
from numpy.typing import ArrayLike, NDArray

FOLDER = Path(__file__).parent / "golden"
COMMAND = "python -m pytest tests/activations -m slow -k derived_again --write-golden"

Answers = dict[str, NDArray[np.longdouble]]


def digits(answers: ArrayLike) -> NDArray[np.longdouble]:
    """Convert numbers of mpmath to extended precision."""
    exact = np.asarray(answers, object)
    high = exact.astype(float)
    low = (exact - np.vectorize(mpf, otypes=[object])(high)).astype(float)
    return high.astype(np.longdouble) + low


def path_of(name: str) -> Path:
    """Return the file of the answers of a given name."""
    return FOLDER / (re.sub(r"[^\w.-]", "_", name) + ".npz")


def digest(name: str, points: dict[str, NDArray]) -> str:
    """Return a digest that changes with the name and the points."""
    hashed = hashlib.sha256(name.encode())
    for key, array in sorted(points.items()):
        hashed.update(f"{key} {array.dtype} {array.shape}".encode() + array.tobytes())
    return hashed.hexdigest()


def save(name: str, points: dict[str, NDArray], answers: Answers) -> None:
    """Write the answers at the given points; equal answers give files of equal bytes."""
    arrays = {"digest": np.array(digest(name, points))}
    for key, exact in answers.items():
        high = exact.astype(float)
        arrays |= {key: high, f"{key}_rest": (exact - high).astype(np.float32)}
    FOLDER.mkdir(exist_ok=True)
    with zipfile.ZipFile(path_of(name), "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(key + ".npy")  # without the time, which NumPy would write
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def load(name: str, points: dict[str, NDArray]) -> Answers:
    """Read the answers at the given points.

    Raises
    ------
    LookupError
        If the file is missing, or holds the answers at other points.
    """
    path = path_of(name)
    if not path.exists():
        raise LookupError(f"{path} is missing; make it with: {COMMAND}")
    with np.load(path) as archive:
        if archive["digest"] != digest(name, points):
            raise LookupError(f"{path} holds the answers at other points; make it with: {COMMAND}")
        return {
            key: archive[key].astype(np.longdouble) + archive[f"{key}_rest"]
            for key in archive
            if f"{key}_rest" in archive
        }
