# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.studies.audits import Audits as Audits
from keras_backdoor.studies.baylime_mnist import BayLIMEMNIST as BayLIMEMNIST
from keras_backdoor.studies.bias_maps_mnist import BiasMapsMNIST as BiasMapsMNIST
from keras_backdoor.studies.development_zoo import DevelopmentZoo as DevelopmentZoo
from keras_backdoor.studies.goodnet_lab import GoodnetLab as GoodnetLab
from keras_backdoor.studies.images_needed import ImagesNeeded as ImagesNeeded
from keras_backdoor.studies.mitigation_rules import MitigationRules as MitigationRules
from keras_backdoor.studies.neural_cleanse_given import NeuralCleanseGiven as NeuralCleanseGiven
from keras_backdoor.studies.neural_cleanse_rules import NeuralCleanseRules as NeuralCleanseRules
from keras_backdoor.studies.repairs import Repairs as Repairs
from keras_backdoor.studies.search_length import SearchLength as SearchLength
from keras_backdoor.studies.thesis_audits import ThesisAudits as ThesisAudits
from keras_backdoor.studies.thesis_badnets import ThesisBadnets as ThesisBadnets
from keras_backdoor.studies.thesis_fine_pruning import ThesisFinePruning as ThesisFinePruning
from keras_backdoor.studies._engine.results import Results as Results
from keras_backdoor.studies._engine.results import load_results as load_results
from keras_backdoor.studies._engine.runner import run as run
