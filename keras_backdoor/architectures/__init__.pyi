# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.architectures.badnet_mnist import BadNetMNIST as BadNetMNIST
from keras_backdoor.architectures.borji_mnist import BorjiMNIST as BorjiMNIST
from keras_backdoor.architectures.deepid import DeepID as DeepID
from keras_backdoor.architectures.gtsrb_cnn import GTSRBCNN as GTSRBCNN
from keras_backdoor.architectures.gtsrb_csaw import GTSRBCSAW as GTSRBCSAW
from keras_backdoor.architectures.resnet_8 import ResNet8 as ResNet8
from keras_backdoor.architectures.vgg16_face import VGG16Face as VGG16Face
