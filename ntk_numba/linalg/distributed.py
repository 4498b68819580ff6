"""Products with a kernel matrix by many processes: a pass of an operator in parts.

The driver, which is the process that solves, writes the columns V to a folder that all workers can
read. A worker multiplies the tiles of its part with the rows of V that they need, and writes its
partial product, whole numbers, to a file of its own; the driver adds these files. Whole numbers are
added without rounding (`sums`), so the bits of the product are those of one process, for any number
of parts and in any order.

The state of a pass is on disk. The names of its files have the digest of the matrix and of V, so a
driver that was killed, and computes the same V from its checkpoint, finds the parts that are done.
"""

import contextlib
import platform
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from ntk_numba import stopping
from ntk_numba.arguments import parse_bytes, whole_number
from ntk_numba.cluster.executors import run_parts
from ntk_numba.cluster.schedulers import Pool, pool_of
from ntk_numba.cluster.workers import AnyExecutor, Receipt, parts_on_this_host, worker_threads
from ntk_numba.errors import FileError, InvalidValueError
from ntk_numba.gramfile import disk
from ntk_numba.gramfile.lease import Lease
from ntk_numba.grid import Grid, Part
from ntk_numba.linalg.sections import Section, SectionsFile, write_sections
from ntk_numba.machine import available_memory
from ntk_numba.sums import Sums

Doubles = NDArray[np.float64]

BLOCK = 1 << 13  # rows of V, and of a partial product, that have one checksum
READERS = 4  # threads that read partial products
KEPT = 2  # matrices whose preparation a worker keeps for its next part


class Multiplier(Protocol):
    """A matrix whose tiles can be multiplied one part at a time."""

    identity: str
    grid: Grid

    def new_sums(self, columns: Doubles) -> Sums:
        """Return empty sums for the product with these columns."""

    def multiply_part(self, columns: Doubles, part: Part, sums: Sums) -> None:
        """Add the products of the tiles of a part."""
