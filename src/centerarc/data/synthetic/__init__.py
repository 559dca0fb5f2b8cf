"""Procedurally drawn faces: a data set of any size for tests, demonstrations and benchmarks."""

from centerarc.data.synthetic.source import SyntheticFaces

__all__ = ["SyntheticFaces"]
