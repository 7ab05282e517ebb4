"""The face networks of the thesis with stand-ins for its data."""

from keras_backdoor.studies.face_stand_ins.study import FaceStandIns

__all__ = ["FaceStandIns"]
