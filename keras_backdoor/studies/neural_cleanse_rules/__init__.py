"""Neural Cleanse on the development zoo, where its rule was fixed."""

from keras_backdoor.studies.neural_cleanse_rules.study import NeuralCleanseRules

__all__ = ["NeuralCleanseRules"]
