"""Files that are not trusted, read within bounds, and files that are written atomically."""
