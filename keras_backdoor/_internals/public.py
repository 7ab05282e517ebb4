"""The public names of `keras_backdoor`."""

HOMES = {
    "Classifier": "network.classifier",
    "Evaluation": "evaluation",
    "FlaggedClasses": "answers",
    "FlaggedSamples": "answers",
    "GoodNetModel": "defenses.goodnet",
    "Heatmaps": "answers",
    "Recipe": "training",
    "RepairedModel": "answers",
    "Samples": "samples",
    "Tuning": "defenses._tuning",
    "attacks": "",
    "bundled": "",
    "channel_activity": "network.channel_activity",
    "datasets": "",
    "evaluate": "evaluation",
    "export": "serving",
    "fgsm": "network.adversarial",
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
"""Name -> module that defines it, relative to the package; empty for a module of its own."""
FOLDERS = ("defenses", "explanations")
"""Folders whose methods can also be imported from `keras_backdoor`."""
