"""Label disagreement: training images whose label only the examined network gives."""

from keras_backdoor.defenses.label_disagreement.method import LabelDisagreement

__all__ = ["LabelDisagreement"]
