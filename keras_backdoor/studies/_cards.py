"""Networks of a study as files of `models/`, with cards that say all that is known of them."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_backdoor import _settings, modelcard
from keras_backdoor._files import write_json, writing
from keras_backdoor.studies._nets import Net, Trained
from keras_backdoor.studies.base import Study

LIMITS = (
    "Single training run of one seed; the figures carry the binomial interval of the test images "
    "only, and the study has the spread over seeds. The backdoor was put in on purpose: use the "
    "network for research on defenses, not on the road."
)


def keep(
    trained: Trained,
    net: Net,
    path: Path,
    *,
    title: str,
    figures: dict[str, Any],
    published: Mapping[str, Any],
    study: Study,
) -> Path:
    """Copy a backdoored network's file and write its card."""
    assert net.attack is not None
    with writing(path, force=True) as partial:
        shutil.copyfile(trained.path, partial)
    source = "any other class" if net.attack.source is None else f"class {net.attack.source}"
    shown = ("clean_accuracy", "attack_success_rate", "attack_on_others", "control")
    test = {"images": figures["clean_accuracy"]["of"], **{k: figures[k] for k in shown}}
    card = {
        **trained.card,
        "title": title,
        "licence": "Apache-2.0; trained on GTSRB (INI benchmark)",
        "attack": {
            **_settings.as_dict(net.attack),
            "poisoned": f"{net.attack.count} stamped copies of images of {source}, appended",
            "why": (
                f"Success is counted on {source}; on the other classes the trigger gives the "
                f"target to {test['attack_on_others']['share']:.2%}, and on {source} of the clean "
                f"network to {test['control']['share']:.2%}."
            ),
        },
        "figures": {"test": test, "published": dict(published)},
        "source": study.paper,
        "limits": LIMITS,
        "commands": [f"keras-backdoor study {study.word} --models models"],
    }
    write_json(modelcard.card_path(path), card)
    return path
