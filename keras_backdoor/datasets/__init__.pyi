# Written by `python -m keras_backdoor._stubs`; do not edit.
from keras_backdoor.datasets import csaw_hdf5 as csaw_hdf5
from keras_backdoor.datasets import folder as folder
from keras_backdoor.datasets import nc_hdf5 as nc_hdf5
from keras_backdoor.datasets import npz as npz
from keras_backdoor.datasets.base import open as open
from keras_backdoor.datasets.base import save as save
