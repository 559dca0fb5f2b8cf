"""The recorded numbers: where they were made, how they are written, when others equal them."""

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

PATH = Path(__file__).with_name("golden.json")

# How far each number of another machine may be off: relative to itself, an entry of a tensor to the
# root mean square of the tensor. Rounding grows over the 20 steps, so each limit is four to ten
# times the largest drift that was measured between AVX2 and SSE kernels on one machine (ATen, MKL
# and oneDNN switched by their environment variables), beside it in words.
TOLERANCES = {
    # 1.1e-4, with a conflict threshold; the median is 2e-6.
    "fp32": 1e-3,
    # 4.6e-2: another order of a sum now and then rounds to the next bfloat16, 4e-3 away.
    "bf16": 0.2,
    # 2.4e-2, float32 too: AdamW divides small gradients by their size, and a deep backbone with
    # batch norm over 8 values has gradients of several thousand.
    "sensitive": 0.2,
}

# Settings that make the libraries choose other kernels than the processor allows.
_SWITCHES = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_MAX_CPU_ISA",
)
_VECTORS = re.compile(r"(amx|asimd|avx|fma|sse4|sve)\w*|bf16|f16c|i8mm|sme2?")


def environment() -> dict[str, str]:
    """Returns what decides which kernels compute, and so the last bits.

    ATen, MKL and oneDNN choose by vendor and vector instructions, hardly by the model, so the name
    of the processor is left out: a machine of the same kind must give the same bits.
    """
    facts: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = facts.get("flags", facts.get("Features", "")).split()
    build = torch.__config__.show()
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "vendor": facts.get("vendor_id", facts.get("CPU implementer", platform.processor())),
        "vector instructions": " ".join(sorted(filter(_VECTORS.fullmatch, flags))),
        "torch": torch.__version__,
        "torch build": hashlib.sha256(build.encode()).hexdigest()[:16],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "fast bf16": str(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "switches": " ".join(
            f"{name}={os.environ[name]}" for name in _SWITCHES if name in os.environ
        ),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def other_environment(here: Mapping[str, str], recorded: Mapping[str, str]) -> str:
    """Returns in which facts two environments differ; empty if the bits must be the same."""
    return "; ".join(
        f"{name} is {here.get(name)!r}, recorded {recorded.get(name)!r}"
        for name in recorded.keys() | here.keys()
        if here.get(name) != recorded.get(name)
    )


@dataclass
class Numbers:
    """What a run gave.

    Args:
        steps: A series for each quantity, one number a step, each that of a float32.
        weights: A summary of each tensor after the last step, see `summarize`.
    """

    steps: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Appends to a series.

        The losses are computed in float32. What is done with them in Python's floats, a mean over
        micro-batches for example, may change its last bits without a change of numbers.
        """
        self.steps.setdefault(name, []).append(float(np.float32(value)))

    def to_json(self) -> dict[str, Any]:
        """Returns what the file holds; hexadecimal, which is exact."""
        return {
            "steps": {name: _hex(values) for name, values in self.steps.items()},
            "weights": {
                name: {
                    "sha256": summary["sha256"],
                    "count": summary["count"],
                    "norm": _hex([summary["norm"]]),
                    "sum": _hex([summary["sum"]]),
                    "entries": _hex(summary["entries"]),
                }
                for name, summary in self.weights.items()
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Numbers":
        """Reads what `to_json` returned."""
        return cls(
            {name: _unhex(text) for name, text in content["steps"].items()},
            {
                name: {
                    "sha256": summary["sha256"],
                    "count": summary["count"],
                    "norm": float.fromhex(summary["norm"]),
                    "sum": float.fromhex(summary["sum"]),
                    "entries": _unhex(summary["entries"]),
                }
                for name, summary in content["weights"].items()
            },
        )


def summarize(tensor: Tensor) -> dict[str, Any]:
    """Returns a digest of a tensor, and a few numbers for where the bits may differ."""
    values = tensor.detach().cpu().contiguous()
    flat = values.double().flatten()
    entries = flat[torch.linspace(0, len(flat) - 1, 4).long()]
    return {
        "sha256": hashlib.sha256(values.numpy().tobytes()).hexdigest()[:32],
        "count": len(flat),
        "norm": float(flat.norm().float()),
        "sum": float(flat.sum().float()),
        "entries": entries.tolist(),
    }


def differences(found: Numbers, recorded: Numbers) -> list[str]:
    """Returns what is not the same to the last bit: a line for each series and each tensor."""
    lines = _names(found, recorded)
    for name in recorded.steps.keys() & found.steps.keys():
        old, new = recorded.steps[name], found.steps[name]
        if len(old) != len(new):
            lines.append(f"{name}: {len(new)} steps, recorded {len(old)}")
            continue
        step = next((i for i in range(len(old)) if old[i].hex() != new[i].hex()), None)
        if step is not None:
            lines.append(f"{name}: from step {step + 1}, {new[step]!r}, recorded {old[step]!r}")
    lines += [
        f"weights of {name}: other bits, norm {found.weights[name]['norm']!r}, "
        f"recorded {summary['norm']!r}"
        for name, summary in recorded.weights.items()
        if name in found.weights and found.weights[name]["sha256"] != summary["sha256"]
    ]
    return sorted(lines)


def drifts(found: Numbers, recorded: Numbers) -> dict[str, float]:
    """Returns how far each series and tensor is off at most, see `TOLERANCES`."""
    shares = dict.fromkeys(_names(found, recorded), math.inf)
    for name in recorded.steps.keys() & found.steps.keys():
        shares[name] = _share(found.steps[name], recorded.steps[name])
    for name in recorded.weights.keys() & found.weights.keys():
        old, new = recorded.weights[name], found.weights[name]
        if old["count"] != new["count"]:
            shares[f"weights of {name}"] = math.inf
            continue
        # A sum of n numbers of the root mean square r is r sqrt(n) by chance.
        typical = max(old["norm"] / math.sqrt(old["count"]), 1e-30)
        off = [abs(new[fact] - old[fact]) / max(old["norm"], 1e-30) for fact in ("norm", "sum")]
        off += [abs(a - b) / typical for a, b in zip(new["entries"], old["entries"], strict=True)]
        shares[f"weights of {name}"] = _worst(off)
    return shares


def write(content: Mapping[str, Any], path: Path = PATH) -> None:
    """Writes the file, one line a series."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read(path: Path = PATH) -> dict[str, Any]:
    """Reads the file."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _names(found: Numbers, recorded: Numbers) -> list[str]:
    both = ((found.steps, recorded.steps), (found.weights, recorded.weights))
    return [
        f"{name}: {'not recorded' if name in new else 'missing'}"
        for new, old in both
        for name in sorted(new.keys() ^ old.keys())
    ]


def _share(new: list[float], old: list[float]) -> float:
    if len(new) != len(old):
        return math.inf
    return _worst(abs(a - b) / max(abs(b), 1e-30) for a, b in zip(new, old, strict=True))


def _worst(shares: Iterable[float]) -> float:
    return max(share if math.isfinite(share) else math.inf for share in shares)


def _hex(values: list[float]) -> str:
    # float.hex() pads to the 13 digits of a double; most here are float32 and need 6.
    return " ".join(re.sub(r"\.?0*p", "p", value.hex()) for value in values)


def _unhex(text: str) -> list[float]:
    return [float.fromhex(part) for part in text.split()]
