"""The memory of a process, for tests and for the fuzzer."""

import resource
from pathlib import Path


def peak_kilobytes() -> int:
    """The peak resident memory of this process so far, in kilobytes.

    `ru_maxrss` also counts the process that started this one, before it ran this program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
