"""Audits of poisoned and clean training data, on networks that the methods were not chosen on."""

from keras_backdoor.studies.audits.study import Audits

__all__ = ["Audits"]
