"""The contract of defenses and explanations."""
