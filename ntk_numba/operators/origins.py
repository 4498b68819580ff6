"""What workers need to open the matrix of an operator, see `passes`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntk_numba.arguments import KernelName
from ntk_numba.cluster.write import shared_path
from ntk_numba.compute.multiply import ComputedMatrix
from ntk_numba.digest import Digest
from ntk_numba.errors import InvalidTypeError, InvalidValueError
from ntk_numba.gramfile.products import MatrixOfFile
from ntk_numba.gramfile.reader import GramFile, open_gram
from ntk_numba.grid import Grid, Part
from ntk_numba.network import MLP
from ntk_numba.operators.computed import ComputedOperator
from ntk_numba.operators.operator import GramOperator, StoredOperator
from ntk_numba.operators.passes import Multiplier, Origin
from ntk_numba.sums import Sums

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class ComputedOrigin:
    """The origin of a computed matrix.

    digests : of the rows of X, and of Z
    """

    net: MLP
    x: Any
    z: Any
    kernel: KernelName
    dtype: np.dtype
    up_to: float | None
    memory: int | str | None
    threads: int | None
    digests: tuple[Digest, ...]

    @classmethod
    def of(cls, matrix: ComputedMatrix) -> "ComputedOrigin":
        """Return the origin of a matrix."""
        return cls(
            net=matrix.net,
            x=matrix.data[0],
            z=matrix.data[1],
            kernel=matrix.kernel,
            dtype=matrix.dtype,
            up_to=matrix.plan.largest_norm,
            memory=matrix.limits[0],
            threads=matrix.limits[1],
            digests=matrix.digests(),
        )

    def elsewhere(self) -> "ComputedOrigin":
        """Return the origin for other processes, which read X and Z from files."""
        z = None if self.z is None else shared_path("Z", self.z)
        return replace(self, x=shared_path("X", self.x), z=z)

    def open(self, memory: int | str | None, threads: int | None) -> ComputedMatrix:
        """Return the matrix in this process, which reads only the rows that its parts need."""
        return ComputedMatrix(
            self.net,
            self.x,
            self.z,
            kernel=self.kernel,
            dtype=self.dtype,
            memory=memory,
            threads=threads,
            up_to=self.up_to,
            roots=(np.empty(0), np.empty(0)),
        )

    def difference(self, matrix: ComputedMatrix, part: Part) -> str:
        """Describe how the rows that a part needs differ from those that the digests are of."""
        found = matrix.digests(part)
        texts = (a.difference(b) for a, b in zip(found, self.digests, strict=True))
        return next((text for text in texts if text), "")

    def __str__(self) -> str:
        return f"{self.kernel} of {self.x}" + ("" if self.z is None else f" and {self.z}")


class _StoredMatrix:
    """A matrix of a Gram file that is multiplied by some threads."""

    def __init__(
        self, matrix: MatrixOfFile, threads: int | None, file: GramFile | None = None
    ) -> None:
        self.matrix, self._threads = matrix, threads
        self._file = file  # is open as long as the matrix is used

    @property
    def grid(self) -> Grid:
        return self.matrix.grid

    @property
    def bounds(self) -> tuple[Doubles, Doubles]:
        return self.matrix.bounds

    def add_part(
        self, scaled: Doubles, part: Part | None, sums: Sums, transpose: bool = False
    ) -> None:
        self.matrix.add_part(scaled, part, sums, transpose, threads=self._threads)


@dataclass(frozen=True)
class StoredOrigin:
    """The origin of a matrix of a Gram file."""

    path: Path
    kernel: Any
    layer: int
    identity: str
    threads: int | None
    memory: None = None

    def elsewhere(self) -> "StoredOrigin":
        """Return the origin for other processes, whose working folder may be another."""
        return replace(self, path=self.path.absolute())

    def open(self, memory: int | str | None, threads: int | None) -> _StoredMatrix:
        """Return the matrix in this process."""
        file = open_gram(self.path)
        return _StoredMatrix(file.stored(self.kernel, self.layer), threads, file)

    def difference(self, matrix: _StoredMatrix, part: Part) -> str:
        """Return that the file is another one, if it is."""
        return "" if matrix.matrix.identity == self.identity else "the file was replaced"

    def __str__(self) -> str:
        return f"{self.kernel} of {self.path}"


def origin_of(operator: Any) -> tuple[Multiplier, Origin]:
    """Return the matrix of an operator in this process, and its origin for others.

    Raises
    ------
    TypeError
        The operator is neither computed nor stored.
    ValueError
        It is stored and of two data sets.
    """
    if isinstance(operator, ComputedOperator):
        return operator.matrix, ComputedOrigin.of(operator.matrix)
    if isinstance(operator, StoredOperator):
        matrix, threads = operator.matrix, operator.threads
        if not operator.symmetric:
            raise InvalidValueError(
                f"{matrix.path} is of two data sets, and is multiplied by one process; give an "
                f"operator of ntk_numba.kernel_operator(net, X, Z)"
            )
        origin = StoredOrigin(
            path=matrix.path,
            kernel=matrix.kernel,
            layer=matrix.contents.kept[matrix.layer],
            identity=matrix.identity,
            threads=threads,
        )
        return _StoredMatrix(matrix, threads), origin
    kind = "operator" if isinstance(operator, GramOperator) else type(operator).__name__
    raise InvalidTypeError(
        f"operator must be that of kernel_operator or of a Gram file; this {kind} is multiplied by "
        "one process"
    )
