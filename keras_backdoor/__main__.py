"""`python -m keras_backdoor` is `keras-backdoor`."""

from keras_backdoor.commands.app import main

main()
