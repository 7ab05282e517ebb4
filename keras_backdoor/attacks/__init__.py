"""Attacks: what is done to training data or to the training to plant a backdoor."""
