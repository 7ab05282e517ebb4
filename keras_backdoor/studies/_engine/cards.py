"""Networks of a study as files of `models/`, with cards that say all that is known of them."""

import shutil
from pathlib import Path
from typing import Any

from keras_backdoor._internals import typed_settings
from keras_backdoor._safe.files import check_output, sha256, write_json, writing
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import cards
from keras_backdoor.studies._engine.results import Results
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, find
from keras_backdoor.studies.base import Cell, Study

LIMITS = (
    "Single training run of one seed; the figures carry the binomial interval of the test images "
    "only, and the study has the spread over seeds. The backdoor was put in on purpose: use the "
    "network for research on defenses, not on the road."
)
SHOWN = ("clean_accuracy", "attack_success_rate", "attack_on_others", "control")


def check(study: Study, folder: Path, *, force: bool = False) -> None:
    """Raise before long work where the networks could not be kept at its end."""
    if not study.networks():
        raise BadInput(f"The study '{study.word}' has no models to keep.")
    if study.scale != "full":
        raise BadInput("Networks are kept at full scale only: leave --scale out.")
    for name in study.networks():
        check_output(folder / name, force=force)
        check_output(cards.card_path(folder / name), force=force)


def keep(
    study: Study, results: Results, workspace: Workspace, folder: Path, *, force: bool = False
) -> list[Path]:
    """Copy the study's networks into a folder, each with a card of its own figures.

    Raises:
        BadInput: figures are missing, or the trained network is not the one they speak of.
    """
    check(study, folder, force=force)
    figures = results.figures()
    ready = [
        _ready(cell, figures.get(cell.name, {}), workspace) for cell in study.networks().values()
    ]
    for (name, cell), (source, card) in zip(study.networks().items(), ready, strict=True):
        path = folder / name
        with writing(path, force=force) as partial:
            shutil.copyfile(source, partial)
        content = {**card, **_facts(study, cell, figures[cell.name])}
        write_json(cards.card_path(path), content)
    return [folder / name for name in study.networks()]


def _ready(
    cell: Cell, figures: dict[str, Any], workspace: Workspace
) -> tuple[Path, dict[str, Any]]:
    """The file of a cell's network and what its card says already."""
    missing = [key for key in (*SHOWN, "model_sha256") if key not in figures]
    if missing:
        raise BadInput(f"The cell '{cell.name}' lacks {', '.join(missing)}: run the whole study.")
    trained = find(cell.given["net"], workspace)
    if trained is None or sha256(trained.path) != figures["model_sha256"]:
        raise BadInput(
            f"The network that the figures of '{cell.name}' speak of is not in the cache: run the "
            "study with --again."
        )
    return trained.path, trained.card


def _facts(study: Study, cell: Cell, figures: dict[str, Any]) -> dict[str, Any]:
    net: Net = cell.given["net"]
    assert net.attack is not None
    source = "any other class" if net.attack.source is None else f"class {net.attack.source}"
    test = {"images": figures["clean_accuracy"]["of"], **{k: figures[k] for k in SHOWN}}
    return {
        "title": study.title_of(cell),
        "licence": "Apache-2.0; trained on GTSRB (INI benchmark)",
        "attack": {
            **typed_settings.as_dict(net.attack),
            "poisoned": f"{net.attack.count} stamped copies of images of {source}, appended",
            "why": (
                f"Success is counted on {source}; on the other classes the trigger gives the "
                f"target to {test['attack_on_others']['share']:.2%}, and on {source} of the clean "
                f"network to {test['control']['share']:.2%}."
            ),
        },
        "figures": {"test": test, "published": dict(cell.published)},
        "source": study.paper,
        "limits": LIMITS,
        "commands": [f"keras-backdoor study {study.word} --models models"],
    }
