# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.attacks.badnets import BadNets as BadNets
from keras_backdoor.attacks.fine_tuned import FineTuned as FineTuned
from keras_backdoor.attacks.pruning_aware import PruningAware as PruningAware
