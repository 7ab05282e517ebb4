"""Neural Cleanse on the development zoo, on which its decision rule was chosen."""

from keras_backdoor.studies.neural_cleanse_rules.study import NeuralCleanseRules

__all__ = ["NeuralCleanseRules"]
