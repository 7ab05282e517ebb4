# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.answers.flagged_classes import FlaggedClasses as FlaggedClasses
from keras_backdoor.answers.flagged_samples import FlaggedSamples as FlaggedSamples
from keras_backdoor.answers.heatmaps import Heatmaps as Heatmaps
from keras_backdoor.answers.repaired_model import RepairedModel as RepairedModel
from keras_backdoor.answers._plots import Plot as Plot
from keras_backdoor.answers.base import Answer as Answer
from keras_backdoor.answers.base import load_answer as load_answer
