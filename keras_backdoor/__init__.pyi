# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor import (
    attacks as attacks,
    bundled as bundled,
    datasets as datasets,
    metrics as metrics,
    studies as studies,
    triggers as triggers,
)
from keras_backdoor.network.classifier import Classifier as Classifier
from keras_backdoor.evaluation import Evaluation as Evaluation
from keras_backdoor.answers import FlaggedClasses as FlaggedClasses
from keras_backdoor.answers import FlaggedSamples as FlaggedSamples
from keras_backdoor.defenses.goodnet import GoodNetModel as GoodNetModel
from keras_backdoor.answers import Heatmaps as Heatmaps
from keras_backdoor.training import Recipe as Recipe
from keras_backdoor.answers import RepairedModel as RepairedModel
from keras_backdoor.samples import Samples as Samples
from keras_backdoor.defenses._tuning import Tuning as Tuning
from keras_backdoor.network.channel_activity import channel_activity as channel_activity
from keras_backdoor.evaluation import evaluate as evaluate
from keras_backdoor.serving import export as export
from keras_backdoor.network.adversarial import fgsm as fgsm
from keras_backdoor.training import fit as fit
from keras_backdoor.defenses.goodnet import goodnet as goodnet
from keras_backdoor.loading import inspect_model as inspect_model
from keras_backdoor.answers import load_answer as load_answer
from keras_backdoor.loading import load_model as load_model
from keras_backdoor.attacks.badnets import poison as poison
from keras_backdoor.network.activations import split as split
from keras_backdoor.defenses.activation_clustering import ActivationClustering as ActivationClustering
from keras_backdoor.defenses.auto import Auto as Auto
from keras_backdoor.defenses.clp import CLP as CLP
from keras_backdoor.defenses.fine_pruning import FinePruning as FinePruning
from keras_backdoor.defenses.fine_tuning import FineTuning as FineTuning
from keras_backdoor.defenses.ft_sam import FTSAM as FTSAM
from keras_backdoor.defenses.goodnet import GoodNet as GoodNet
from keras_backdoor.defenses.input_filter import InputFilter as InputFilter
from keras_backdoor.defenses.label_disagreement import LabelDisagreement as LabelDisagreement
from keras_backdoor.defenses.nad import NAD as NAD
from keras_backdoor.defenses.neural_cleanse import NeuralCleanse as NeuralCleanse
from keras_backdoor.defenses.neuron_pruning import NeuronPruning as NeuronPruning
from keras_backdoor.defenses.provenance import Provenance as Provenance
from keras_backdoor.defenses.retrain import Retrain as Retrain
from keras_backdoor.defenses.simple_triggers import SimpleTriggers as SimpleTriggers
from keras_backdoor.defenses.source_specific_scan import SourceSpecificScan as SourceSpecificScan
from keras_backdoor.defenses.spectral_signatures import SpectralSignatures as SpectralSignatures
from keras_backdoor.defenses.staged_scan import StagedScan as StagedScan
from keras_backdoor.defenses.strip import STRIP as STRIP
from keras_backdoor.defenses.strip_guard import STRIPGuard as STRIPGuard
from keras_backdoor.defenses.trigger_augmentation import TriggerAugmentation as TriggerAugmentation
from keras_backdoor.defenses.unlearning import Unlearning as Unlearning
from keras_backdoor.defenses.weight_signature import WeightSignature as WeightSignature
from keras_backdoor.explanations.baylime import BayLIME as BayLIME
from keras_backdoor.explanations.bias_maps import BiasMaps as BiasMaps

__version__: str
