"""The commands: one short function each. `keras_backdoor.commands.app` puts them together."""
