"""Discovery by file name, settings from text, `.pyi` files and the TensorFlow backend."""
