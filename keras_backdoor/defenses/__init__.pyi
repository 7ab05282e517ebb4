# Written by `python -m keras_backdoor._stubs`; do not edit.
from keras_backdoor.defenses.fine_pruning import FinePruning as FinePruning
from keras_backdoor.defenses.goodnet import GoodNet as GoodNet
