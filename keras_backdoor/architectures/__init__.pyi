# Written by `python -m keras_backdoor._stubs`; do not edit.
from keras_backdoor.architectures.badnet_mnist import badnet_mnist as badnet_mnist
from keras_backdoor.architectures.borji_mnist import borji_mnist as borji_mnist
from keras_backdoor.architectures.deepid import deepid as deepid
from keras_backdoor.architectures.gtsrb_cnn import gtsrb_cnn as gtsrb_cnn
from keras_backdoor.architectures.gtsrb_csaw import gtsrb_csaw as gtsrb_csaw
from keras_backdoor.architectures.vgg16_face import vgg16_face as vgg16_face
