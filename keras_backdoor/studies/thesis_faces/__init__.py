"""The face networks of the thesis in its own setting."""

from keras_backdoor.studies.thesis_faces.study import ThesisFaces

__all__ = ["ThesisFaces"]
