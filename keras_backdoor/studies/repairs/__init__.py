"""Repairs without a scan, on networks that were not used to choose their settings."""

from keras_backdoor.studies.repairs.study import Repairs

__all__ = ["Repairs"]
