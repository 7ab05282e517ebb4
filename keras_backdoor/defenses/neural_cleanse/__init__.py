"""Neural Cleanse: the trigger search, its schedule and the verdict."""

from keras_backdoor.defenses.neural_cleanse.method import NeuralCleanse
from keras_backdoor.defenses.neural_cleanse.schedule import Schedule

__all__ = ["NeuralCleanse", "Schedule"]
