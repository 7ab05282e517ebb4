# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.explanations.baylime import BayLIME as BayLIME
from keras_backdoor.explanations.bias_maps import BiasMaps as BiasMaps
