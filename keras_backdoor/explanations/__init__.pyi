# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
