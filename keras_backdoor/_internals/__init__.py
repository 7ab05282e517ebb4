"""What holds the package together: discovery by file name, settings from text, the backend."""
