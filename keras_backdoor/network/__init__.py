"""Keras models as methods use them: predictions, layers, activations, channels.

Everything that uses the private interface of Keras is in this folder.
"""
