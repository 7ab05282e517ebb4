"""Recovery of a trigger of one pixel by BayLIME."""

from keras_backdoor.studies.baylime_mnist.study import BayLIMEMNIST

__all__ = ["BayLIMEMNIST"]
