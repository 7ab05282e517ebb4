"""Run the command line program with `python -m keras_backdoor`."""

from keras_backdoor.commands.app import main

main()
