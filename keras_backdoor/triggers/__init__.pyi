# Written by `python -m keras_backdoor._internals.stubs`; do not edit.
from keras_backdoor.triggers.add import Add as Add
from keras_backdoor.triggers.blend import Blend as Blend
from keras_backdoor.triggers.checkerboard import Checkerboard as Checkerboard
from keras_backdoor.triggers.glasses import Glasses as Glasses
from keras_backdoor.triggers.multiply import Multiply as Multiply
from keras_backdoor.triggers.noise_patch import NoisePatch as NoisePatch
from keras_backdoor.triggers.patch import Patch as Patch
from keras_backdoor.triggers.pattern import Pattern as Pattern
from keras_backdoor.triggers.placed import Placed as Placed
from keras_backdoor.triggers.quantize import Quantize as Quantize
from keras_backdoor.triggers.single_pixel import SinglePixel as SinglePixel
from keras_backdoor.triggers.sinusoid import Sinusoid as Sinusoid
from keras_backdoor.triggers.warp import Warp as Warp
from keras_backdoor.triggers._parse import PRESETS as PRESETS
from keras_backdoor.triggers._parse import parse as parse
