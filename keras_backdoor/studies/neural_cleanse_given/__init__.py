"""Neural Cleanse on networks that had no part in its making."""

from keras_backdoor.studies.neural_cleanse_given.study import NeuralCleanseGiven

__all__ = ["NeuralCleanseGiven"]
