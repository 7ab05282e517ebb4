"""Model files: opened without running anything in them, inspected, and written with a card."""

from keras_backdoor.loading.inspection import Inspection, inspect_model
from keras_backdoor.loading.model_files import load_model

__all__ = ["Inspection", "inspect_model", "load_model"]
