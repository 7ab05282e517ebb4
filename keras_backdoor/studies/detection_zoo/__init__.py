"""Scans of 124 small networks, half of them to choose rules on and half to judge them once."""

from keras_backdoor.studies.detection_zoo.study import DetectionZoo

__all__ = ["DetectionZoo"]
