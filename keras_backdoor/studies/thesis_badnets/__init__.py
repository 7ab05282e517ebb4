"""Traffic sign BadNets of the thesis: tables 3.5, 4.1 and A.2, figures 4.2 and 4.5."""

from keras_backdoor.studies.thesis_badnets.study import ThesisBadnets

__all__ = ["ThesisBadnets"]
