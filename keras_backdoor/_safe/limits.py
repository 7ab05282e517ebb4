"""Limits for a process that reads an untrusted file."""


def bound_memory(limit: int) -> None:
    """Limit the address space of this process, and let it write no core file.

    Args:
        limit: the largest size in bytes. A system without resource limits has none.
    """
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
