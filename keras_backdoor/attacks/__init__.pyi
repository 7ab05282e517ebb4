# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.attacks.all_to_all import AllToAll as AllToAll
from keras_backdoor.attacks.badnets import BadNets as BadNets
from keras_backdoor.attacks.clean_label import CleanLabel as CleanLabel
from keras_backdoor.attacks.fine_tuned import FineTuned as FineTuned
from keras_backdoor.attacks.pruning_aware import PruningAware as PruningAware
from keras_backdoor.attacks.sig import SIG as SIG
from keras_backdoor.attacks.wanet import WaNet as WaNet
