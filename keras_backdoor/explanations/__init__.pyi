# Written by `python -m keras_backdoor._stubs`; do not edit.
