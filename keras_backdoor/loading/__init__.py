"""Model files: load and inspect them without running their code, and save them with a card."""

from keras_backdoor.loading.inspection import Inspection, inspect_model
from keras_backdoor.loading.model_files import load_model

__all__ = ["Inspection", "inspect_model", "load_model"]
