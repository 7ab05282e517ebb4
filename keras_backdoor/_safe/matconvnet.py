"""Read the weights of a network in an untrusted file of MatConvNet.

SciPy reads MATLAB files of versions 4 to 7 without running anything in them, but a small file may
declare or decompress to more than the memory of the machine. So a separate process with limited
memory and time reads it, and passes on nothing but arrays of numbers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_backdoor._safe.limits import bound_memory
from keras_backdoor._safe.temporary import scratch
from keras_backdoor.errors import HostileFile, UnreadableFile, one_line

MEMORY = 8 * 2**30
"""Limit of the address space of the process, in bytes; VGG-Face takes about a fourth of it."""
SECONDS, BYTES_A_SECOND = 30, 10**7
"""Time limit for a file: `SECONDS`, plus one second for every `BYTES_A_SECOND` bytes."""
Layers = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name of a layer -> (kernel, bias), float32."""


def layers(path: Path) -> Layers:
    """The layers with weights of a network of MatConvNet, in their order.

    Args:
        path: a `.mat` file with `layers`, or with a struct `net` that has them.

    Raises:
        UnreadableFile: the file is not a MATLAB file of these versions, is damaged, or has no such
            network.
        HostileFile: reading it exceeds the limits of memory or time, or crashes.
    """
    root = str(Path(__file__).resolve().parents[2])
    code = (
        f"import sys; sys.path.append({root!r})\n"
        "from keras_backdoor._safe import matconvnet\n"
        "matconvnet.main(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
    )
    with scratch() as folder:
        out = folder / "layers.npz"
        command = [sys.executable, "-P", "-c", code, str(path.absolute()), str(out), str(MEMORY)]
        limit = SECONDS + path.stat().st_size // BYTES_A_SECOND
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except subprocess.TimeoutExpired:
            done = None
        if done is None or done.returncode < 0 or (done.returncode and "Memory" in done.stderr):
            raise HostileFile(
                f"{path} makes the MATLAB reader crash, hang or take more than {MEMORY // 2**30} "
                "GiB of memory."
            )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UnreadableFile(f"{path} cannot be read: {last.partition(': ')[2] or last}.")
        with np.load(out, allow_pickle=False) as stored:
            names = json.loads(str(stored["names"]))
            return {n: (stored[f"kernel{i}"], stored[f"bias{i}"]) for i, n in enumerate(names)}


def main(path: str, out: str, memory: int) -> None:
    """The process: read a file and write its layers; an error ends it with its message."""
    from scipy.io import loadmat

    bound_memory(memory)
    try:
        content = loadmat(path, struct_as_record=False, squeeze_me=True)
    except MemoryError:
        raise
    except NotImplementedError as error:
        raise ValueError("it is of version 7.3: save it with the option -v7") from error
    except Exception as error:  # SciPy raises many types for a damaged file
        raise ValueError(f"it is not a MATLAB file, or damaged ({one_line(error)})") from error
    found = _layers(content)
    arrays: dict[str, Any] = {"names": np.array(json.dumps(list(found)))}
    for number, (kernel, bias) in enumerate(found.values()):
        arrays |= {f"kernel{number}": kernel, f"bias{number}": bias}
    np.savez(out, **arrays)


def _layers(content: dict[str, Any]) -> Layers:
    stored = content.get("layers", getattr(content.get("net"), "layers", None))
    found: Layers = {}
    for number, layer in enumerate(np.atleast_1d(stored) if stored is not None else []):
        pair = _pair(layer)
        if pair is None:
            continue
        name = getattr(layer, "name", "")
        name = name if isinstance(name, str) and name else f"layer {number}"
        if name in found:
            raise ValueError(f"it has two layers with the name {name!r}")
        found[name] = pair
    if not found:
        raise ValueError("it is not a network of MatConvNet with layers")
    return found


def _pair(layer: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The weights of a layer; the older form has `filters` and `biases`."""
    weights = getattr(layer, "weights", None)
    pair = (getattr(layer, "filters", None), getattr(layer, "biases", None))
    if isinstance(weights, np.ndarray) and weights.dtype == object and weights.size == 2:
        pair = (weights.flat[0], weights.flat[1])
    if any(v is None for v in pair):
        return None
    kernel, bias = (np.atleast_1d(np.asarray(v)) for v in pair)
    if any(v.dtype.kind not in "uif" for v in (kernel, bias)):
        return None
    if kernel.ndim == 2:  # MATLAB drops the two axes of a 1x1 convolution
        kernel = kernel[None, None]
    if kernel.ndim != 4:
        raise ValueError(f"a kernel has the shape {kernel.shape}, which is no convolution")
    return kernel.astype(np.float32), bias.reshape(-1).astype(np.float32)
