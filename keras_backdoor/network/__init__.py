"""Access to Keras models: predictions, layers, activations and channels.

All uses of the private interface of Keras are in this package.
"""
