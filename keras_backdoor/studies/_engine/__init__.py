"""Execution of studies: running, caching and collecting cells."""
