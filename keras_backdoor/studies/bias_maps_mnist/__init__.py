"""Bias maps of backdoored MNIST networks beside those of their clean parents."""

from keras_backdoor.studies.bias_maps_mnist.study import BiasMapsMNIST

__all__ = ["BiasMapsMNIST"]
