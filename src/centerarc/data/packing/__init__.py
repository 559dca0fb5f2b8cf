"""Packing: a folder of a million small files, or any other source, as a few large ones."""

from centerarc.data.packing.packer import PackReport, pack

__all__ = ["PackReport", "pack"]
