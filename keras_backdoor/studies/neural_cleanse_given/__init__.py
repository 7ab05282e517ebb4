"""Neural Cleanse on networks that were not used to choose its settings."""

from keras_backdoor.studies.neural_cleanse_given.study import NeuralCleanseGiven

__all__ = ["NeuralCleanseGiven"]
