"""The commands, one function each. `keras_backdoor.commands.app` assembles them."""
