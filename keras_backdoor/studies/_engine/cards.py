"""Save the trained networks of a study as model files with model cards."""

import lzma
import shutil
from pathlib import Path
from typing import Any

from keras_backdoor._safe.files import check_output, sha256, write_json, writing
from keras_backdoor.attacks.base import DataAttack
from keras_backdoor.errors import BadInput
from keras_backdoor.loading import cards
from keras_backdoor.studies._engine.results import Results
from keras_backdoor.studies._engine.workspace import Workspace
from keras_backdoor.studies._networks.network_store import Net, find
from keras_backdoor.studies.base import Cell, Study

DATA_OF = {
    "gtsrb_dataset_int.h5": "GTSRB (INI benchmark)",
    "mnist.npz": "MNIST (CC BY-SA 3.0)",
}
LIMITS = (
    "Single training run of one seed; the figures carry the binomial interval of the test images "
    "only, and the study has the spread over seeds. The backdoor was put in on purpose: use the "
    "network for research on defenses, not on the road."
)
PACKED = ".xz"
"""File name suffix of a compressed network; `network_store` unpacks it into the cache."""


def check(study: Study, folder: Path, *, force: bool = False) -> None:
    """Check that the networks of a study can be saved; called before long work.

    Raises:
        BadInput: if the study has no networks, is not at full scale, or a file exists.
    """
    if not study.networks():
        raise BadInput(f"The study '{study.word}' has no models to save: leave --models out.")
    if study.scale != "full":
        raise BadInput("Networks are saved at full scale only: leave --scale out.")
    for name in study.networks():
        check_output(folder / name, force=force)
        check_output(_card_path(folder / name), force=force)


def keep(
    study: Study, results: Results, workspace: Workspace, folder: Path, *, force: bool = False
) -> list[Path]:
    """Copy the trained networks of a study into a folder, each with a model card.

    Args:
        study: the study.
        results: the results of the study.
        workspace: the folders of data and cache.
        folder: the folder to write to.
        force: overwrite existing files.

    Returns:
        The paths of the model files.

    Raises:
        BadInput: if results are missing, or the cached network is not the evaluated one.
    """
    check(study, folder, force=force)
    figures = results.figures()
    ready = [
        _ready(study, cell, figures.get(cell.name, {}), workspace)
        for cell in study.networks().values()
    ]
    for (name, cell), (source, card) in zip(study.networks().items(), ready, strict=True):
        path = folder / name
        with writing(path, force=force) as partial:
            if path.suffix == PACKED:
                partial.write_bytes(lzma.compress(source.read_bytes()))
            else:
                shutil.copyfile(source, partial)
        content = {**card, **_facts(study, cell, figures[cell.name])}
        write_json(_card_path(path), content)
    return [folder / name for name in study.networks()]


def _card_path(path: Path) -> Path:
    return cards.card_path(path.with_suffix("") if path.suffix == PACKED else path)


def _ready(
    study: Study, cell: Cell, figures: dict[str, Any], workspace: Workspace
) -> tuple[Path, dict[str, Any]]:
    """Return the cached model file of a cell and its model card."""
    missing = [key for key in (*study.kept_figures, "model_sha256") if key not in figures]
    if missing:
        raise BadInput(f"The cell '{cell.name}' lacks {', '.join(missing)}: run the whole study.")
    trained = find(cell.given["net"], workspace)
    if trained is None or sha256(trained.path) != figures["model_sha256"]:
        raise BadInput(
            f"The network of '{cell.name}' is not in the cache: run the study with --again."
        )
    return trained.path, trained.card


def _facts(study: Study, cell: Cell, figures: dict[str, Any]) -> dict[str, Any]:
    net: Net = cell.given["net"]
    keys = (*study.kept_figures, "attack_success_rate")
    test = {
        "images": figures["clean_accuracy"]["of"],
        **{k: figures[k] for k in keys if k in figures},
    }
    facts = {
        "title": study.title_of(cell),
        "licence": "Apache-2.0; trained on " + DATA_OF.get(net.data, net.data),
        "figures": {"test": test, "published": dict(cell.published)},
        "source": study.paper,
        "limits": LIMITS,
        "commands": [f"keras-backdoor study {study.word} --models {study.kept_in}"],
    }
    return facts if net.attack is None else {**facts, "attack": _attack(net.attack, test)}


def _attack(attack: DataAttack, test: dict[str, Any]) -> dict[str, Any]:
    source = "any other class" if attack.source is None else f"class {attack.source}"
    facts = {
        "trigger": attack.trigger if isinstance(attack.trigger, str) else repr(attack.stamp),
        "target": attack.target,
        "count": attack.count,
        "source": attack.source,
        "poisoned": f"{attack.count} stamped copies of images of {source}, appended",
    }
    if "control" not in test:
        return facts
    return {
        **facts,
        "why": (
            f"Success is counted on {source}; on the other classes the trigger gives the target to "
            f"{test['attack_on_others']['share']:.2%}, and on {source} of the clean network to "
            f"{test['control']['share']:.2%}."
        ),
    }
