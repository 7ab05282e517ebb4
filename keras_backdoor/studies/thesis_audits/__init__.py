"""Data defenses on the thesis's traffic-sign BadNets."""

from keras_backdoor.studies.thesis_audits.study import ThesisAudits

__all__ = ["ThesisAudits"]
