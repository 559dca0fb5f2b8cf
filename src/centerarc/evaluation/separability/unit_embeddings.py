"""Unit embeddings with their identities and centers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from centerarc.evaluation.scores import FloatArray, IntArray


@dataclass(frozen=True)
class Identities:
    """Images sorted by identity.

    Attributes:
        unit: (N, D) float32 unit embeddings, by rising identity.
        labels: (N,) number of each image's identity, 0, 1, ..., C - 1, not decreasing.
        sizes: (C,) images of each identity.
        sums: (C, D) float64 sums of the unit embeddings of each identity.
        centers: (C, D) float32 directions of the sums; 0 where a sum is 0.
    """

    unit: npt.NDArray[np.float32]
    labels: IntArray
    sizes: IntArray
    sums: FloatArray
    centers: npt.NDArray[np.float32]

    @property
    def count(self) -> int:
        """C, how many identities."""
        return int(self.sizes.size)

    @classmethod
    def of(cls, embeddings: npt.ArrayLike, labels: npt.ArrayLike) -> "Identities":
        """Normalise and sort embeddings (N, D) of identities (N,).

        Raises:
            ValueError: wrong shapes or dtypes, or an embedding that is not finite or of length 0,
                with its row.
        """
        values, identity = np.asarray(embeddings), np.asarray(labels)
        if values.ndim != 2 or not len(values):
            raise ValueError(f"embeddings must have shape (N, D) with N > 0, got {values.shape}")
        if identity.shape != values.shape[:1] or not np.issubdtype(identity.dtype, np.integer):
            raise ValueError(
                f"labels must be integers of shape ({len(values)},), got {identity.dtype} "
                f"{identity.shape}"
            )
        length = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
        bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
        if bad.size:
            raise ValueError(
                f"embeddings must be finite and longer than 0, row {bad[0]} has length "
                f"{length[bad[0]]}"
            )
        order = np.argsort(identity, kind="stable")
        _, starts, sizes = np.unique(identity[order], return_index=True, return_counts=True)
        unit = np.empty(values.shape, dtype=np.float32)
        np.divide(values[order], length[order, None], out=unit, casting="same_kind")
        sums = np.add.reduceat(unit, starts, axis=0, dtype=np.float64)
        norm = np.sqrt(np.einsum("cd,cd->c", sums, sums))[:, None]
        centers = np.divide(sums, norm, out=np.zeros_like(sums), where=norm > 0)
        number = np.repeat(np.arange(sizes.size), sizes)
        return cls(unit, number, sizes.astype(np.int64), sums, centers.astype(np.float32))

    def cosine_to_others_of_own(self) -> FloatArray:
        """Cosine of each image to the sum of its identity's other images; 0 where there are none.

        <x, S - x> / |S - x|, from x S, |S|^2 and |x|^2, so that no other sum is formed.
        """
        size = len(self.unit)
        square = np.einsum("cd,cd->c", self.sums, self.sums)[self.labels]
        with_sum, own = np.empty(size), np.empty(size)
        rows = max(1, 1_000_000 // self.unit.shape[1])
        for start in range(0, size, rows):
            part = slice(start, start + rows)
            unit = self.unit[part].astype(np.float64)
            with_sum[part] = np.einsum("nd,nd->n", unit, self.sums[self.labels[part]])
            own[part] = np.einsum("nd,nd->n", unit, unit)
        rest = np.sqrt(np.maximum(square - 2 * with_sum + own, 0.0))
        # Below this the others cancel out, or there are none.
        known = rest > 1e-6
        found: FloatArray = np.divide(with_sum - own, rest, out=np.zeros(size), where=known)
        return found
