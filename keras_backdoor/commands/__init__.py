"""The commands: one short function each. `keras_backdoor.cli` puts them together."""
