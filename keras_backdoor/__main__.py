"""`python -m keras_backdoor` is `keras-backdoor`."""

from keras_backdoor.cli import main

main()
