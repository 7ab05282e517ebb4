"""The staged scan on networks that its rules were not chosen on."""

from keras_backdoor.studies.scans_given.study import ScansGiven

__all__ = ["ScansGiven"]
