"""The machine in words. Imports no torch."""

import os
from pathlib import Path
from typing import Any

FEATURES = {
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX",
    "avx2": "AVX2",
}


def machine_facts() -> dict[str, Any]:
    """Cores, memory and processor; what cannot be found is left out."""
    facts: dict[str, Any] = {"cores": os.cpu_count()}
    memory = _field("/proc/meminfo", "MemTotal")
    if memory:
        facts["memory_gib"] = int(memory.split()[0]) / (1 << 20)
    facts["processor"] = _field("/proc/cpuinfo", "model name") or "processor of unknown name"
    flags = (_field("/proc/cpuinfo", "flags") or "").split()
    features = {word for flag, word in FEATURES.items() if flag in flags}
    if "AVX-512" in features:
        features -= {"AVX2"}
    facts["features"] = sorted(features)
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if pages.exists():
        facts["huge_pages"] = pages.read_text().split("[")[-1].split("]")[0]
    return facts


def available_bytes() -> int:
    """Memory that could be had without swapping."""
    found = _field("/proc/meminfo", "MemAvailable")
    return int(found.split()[0]) << 10 if found else 1 << 62


def machine_words(record: dict[str, Any]) -> str:
    """A sentence from a record's facts and what its process said of PyTorch."""
    facts = record["machine"]
    features = f" with {', '.join(facts['features'])}" if facts["features"] else ""
    parts = [f"{facts['cores']} cores of {facts['processor']}{features}"]
    if "memory_gib" in facts:
        parts.append(f"{facts['memory_gib']:.0f} GiB")
    if record.get("gpu"):
        parts = [f"{record['gpu']}, {record['gpu_bytes'] / (1 << 30):.0f} GiB", *parts]
    if "huge_pages" in facts:
        parts.append(f"transparent huge pages: {facts['huge_pages']}")
    words = ", ".join(parts)
    if "torch" in record:
        words += f"; torch {record['torch']}, {record['threads']} threads"
    if record.get("triton") and record.get("gpu"):
        words += f", triton {record['triton']}"
    return words + "."


def _field(path: str, name: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
