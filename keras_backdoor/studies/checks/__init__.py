"""The command `check` on given networks."""

from keras_backdoor.studies.checks.study import Checks

__all__ = ["Checks"]
