# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.defenses.auto import Auto as Auto
from keras_backdoor.defenses.clp import CLP as CLP
from keras_backdoor.defenses.fine_pruning import FinePruning as FinePruning
from keras_backdoor.defenses.fine_tuning import FineTuning as FineTuning
from keras_backdoor.defenses.ft_sam import FTSAM as FTSAM
from keras_backdoor.defenses.goodnet import GoodNet as GoodNet
from keras_backdoor.defenses.input_filter import InputFilter as InputFilter
from keras_backdoor.defenses.nad import NAD as NAD
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse as NeuralCleanse
from keras_backdoor.defenses.neuron_pruning import NeuronPruning as NeuronPruning
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan as SourceSpecificScan
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation as TriggerAugmentation
from keras_backdoor.defenses.unlearning import Unlearning as Unlearning
