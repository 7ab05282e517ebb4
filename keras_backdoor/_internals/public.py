"""What `keras_backdoor` itself offers: name -> module that it is in."""

HOMES = {
    "Classifier": "network.classifier",
    "Evaluation": "evaluation",
    "FlaggedClasses": "answers",
    "FlaggedSamples": "answers",
    "Heatmaps": "answers",
    "Recipe": "training",
    "RepairedModel": "answers",
    "Samples": "samples",
    "attacks": "",
    "bundled": "",
    "datasets": "",
    "evaluate": "evaluation",
    "export": "serving",
    "fit": "training",
    "goodnet": "defenses.goodnet",
    "inspect_model": "loading",
    "load_answer": "answers",
    "load_model": "loading",
    "metrics": "",
    "poison": "attacks.badnets",
    "split": "network.activations",
    "studies": "",
    "triggers": "",
}
FOLDERS = ("defenses", "explanations")
"""Folders whose methods can be imported from `keras_backdoor` too."""
