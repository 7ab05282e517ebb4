"""Fine-pruning of the thesis's traffic-sign BadNets."""

from keras_backdoor.studies.thesis_fine_pruning.study import ThesisFinePruning

__all__ = ["ThesisFinePruning"]
