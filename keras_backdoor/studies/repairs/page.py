"""Report of repairs, with one table row per network."""

from collections.abc import Sequence
from typing import Any

from keras_backdoor.reports.page import Section
from keras_backdoor.studies import Results
from keras_backdoor.studies.repairs.study import FAMILY_OF, OTHER_FAMILY, WITHOUT

BASELINES = ("fine-tuning", "NAD", "FT-SAM")
ZOO, FACES = "development zoo", "faces"
FEWER = ", fewer images"


def sections(results: Results) -> list[Section]:
    """Return the sections of the page."""
    tables = [
        ("Repaired networks", REPAIRED, repaired(results)),
        ("Networks of third parties", UNSEEN, unseen(results)),
        ("As a guard", GUARDS, guards(results)),
        ("Beside the literature", LITERATURE, literature(results)),
        ("Families of triggers left out", LEFT_OUT, families(results)),
        ("Fewer clean images", "In %.", fewer(results)),
        ("The development zoo", "In %. The settings were chosen on these networks.", zoo(results)),
        ("Face networks", FACE_NETWORKS, faces(results)),
        ("Trained on poison again", RETUNED, retuned(results)),
    ]
    return [Section(name, text=note, table=table) for name, note, table in tables if table[1:]]


REPAIRED = "In %, on the whole test set, with the range over the clean subsets."
GUARDS = (
    "G(B, B') on the whole test set, in %: the triggered images that it rejects or classifies "
    "correctly, and the clean images that it rejects, without a tolerance and with one of 0.1."
)
UNSEEN = (
    "The accuracy in %, on the test images and on 10,000 training images that are not among the "
    "clean ones. A network that is better on the test images than on the training images was "
    "probably trained on the test images; then the accuracy on them says nothing about a loss."
)
SHOWN_TOLERANCE = "0.1"
LITERATURE = "Attack success and change of the accuracy in points, on the first clean subset."
LEFT_OUT = (
    "Attack success in %, on networks of the zoo. The network of the last row has a trigger of no "
    "family."
)
FACE_NETWORKS = (
    "In %. The clean images are faces of people outside the classes of the networks, which label "
    "them themselves; agreement is that with the examined network on held-out faces."
)

RETUNED = (
    "Attack success in % before, and after each of five epochs on the clean images and ten "
    "poisoned ones. A network without a backdoor learns it from the same images."
)


def _groups(results: Results) -> dict[str, list[dict[str, Any]]]:
    """The results of the command `repair` on the networks of the evaluation, by network."""
    others = {*BASELINES, ZOO, FACES, WITHOUT}
    return {
        name: figures
        for name, figures in results.groups("accuracy_after").items()
        if name not in others and not name.endswith(FEWER)
    }


def repaired(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    rows: list[tuple[str, ...]] = [
        ("network", "runs", "attack before", "after", "source class before", "after",
         "accuracy before", "change, points")
    ]  # fmt: skip
    for name, figures in _groups(results).items():
        rows.append(
            (
                name,
                str(len(figures)),
                *(_range(figures, f"attack_{when}") for when in ("before", "after")),
                *(_range(figures, f"source_{when}") for when in ("before", "after")),
                _range(figures, "accuracy_before"),
                _changes(figures),
            )
        )
    return rows


def unseen(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network of a third party."""
    rows: list[tuple[str, ...]] = [
        ("network", "test images before", "after", "other training images before", "after")
    ]
    for name, figures in _groups(results).items():
        if chosen := [f for f in figures if "unseen_before" in f]:
            keys = ("accuracy_before", "accuracy_after", "unseen_before", "unseen_after")
            rows.append((name, *(_range(chosen, key) for key in keys)))
    return rows


def guards(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    rows: list[tuple[str, ...]] = [
        ("network", "well", "clean rejected", "tolerance 0.1: well", "clean rejected")
    ]
    for name, figures in _groups(results).items():
        tolerant = [f["tolerant"][SHOWN_TOLERANCE] for f in figures if "tolerant" in f]
        rows.append(
            (
                name,
                _range(figures, "guarded"),
                _range(figures, "rejected_clean"),
                _range(tolerant, "guarded"),
                _range(tolerant, "clean"),
            )
        )
    return rows


def literature(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network."""
    by_method: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in results.cells:
        if cell.get("group") in BASELINES and "figures" in cell:
            network = cell["name"].removesuffix(f", {cell['group']}")
            by_method.setdefault(network, {})[cell["group"]] = cell["figures"]
    rows: list[tuple[str, ...]] = [("network", "before", *BASELINES, "this package")]
    for name, figures in _groups(results).items():
        if name in by_method:
            made = [by_method[name].get(method) for method in BASELINES]
            before = _range(figures[:1], "attack_before") or "clean"
            rows.append((name, before, *(_attack_and_change(f) for f in [*made, figures[0]])))
    return rows


def _attack_and_change(figures: dict[str, Any] | None) -> str:
    if figures is None:
        return ""
    if "refused" in figures:
        return "refused"
    attack = _range([figures], "attack_after")
    return f"{attack} ({_changes([figures])})" if attack else _changes([figures])


def families(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per family."""
    rows: list[tuple[str, ...]] = [("family of the attack", "before", "all families", "left out")]
    measured = {c["name"]: c["figures"] for c in results.cells if "figures" in c}
    for family, name in [*FAMILY_OF.items(), ("none of them", OTHER_FAMILY)]:
        cells = [measured.get(cell) for cell in (name, f"{name}, without {family}")]
        made = [[figures] if figures else [] for figures in cells]
        if any(made):
            before = _range([*made[0], *made[1]][:1], "attack_before")
            rows.append((family, before, *(_range(figures, "attack_after") for figures in made)))
    return rows


def fewer(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network and number of clean images."""
    return _single(results, lambda cell: cell.get("group", "").endswith(FEWER))


def zoo(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network of the zoo."""
    return _single(results, lambda cell: cell.get("group") == ZOO)


def _single(results: Results, chosen: Any) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("network", "clean images", "attack before", "after", "source class before", "after",
         "accuracy before", "change, points")
    ]  # fmt: skip
    for cell in results.cells:
        if chosen(cell) and "figures" in cell:
            figures = [cell["figures"]]
            keys = ("attack_before", "attack_after", "source_before", "source_after",
                    "accuracy_before")  # fmt: skip
            rates = [_range(figures, key) for key in keys]
            images = str(figures[0].get("images", ""))
            rows.append((cell["name"], images, *rates, _changes(figures)))
    return rows


def faces(results: Results) -> list[tuple[str, ...]]:
    """Return the header and one row per network and method."""
    keys = ("attack_before", "attack_after", "agreement", "agreement_where_sure")
    rows: list[tuple[str, ...]] = [
        ("network", "attack before", "after", "agreement", "where it was sure")
    ]
    cells = [c for c in results.cells if c.get("group") == FACES and "figures" in c]
    rows += [(c["name"], *(_range([c["figures"]], key) for key in keys)) for c in cells]
    return rows


def retuned(results: Results) -> list[tuple[str, ...]]:
    """Return the header and two rows per network: the repaired and a clean one."""
    rows: list[tuple[str, ...]] = [("network", "start", "attack success")]
    for cell in results.cells:
        for name in ("repaired", "clean"):
            rates = cell.get("figures", {}).get(f"retuned_{name}")
            if rates:
                shown = ", ".join(f"{100 * r['share']:.1f}" for r in rates)
                network = cell["name"].removesuffix(", trained on poison again")
                rows.append((network, name, shown))
    return rows


def _range(figures: Sequence[dict[str, Any]], key: str) -> str:
    """The range of a rate over runs, in %; empty if it was not measured.

    >>> _range([{"a": {"share": 0.5}}, {"a": {"share": 0.00008}}], "a")
    '0.01 to 50.00'
    """
    shares = [100 * f[key]["share"] for f in figures if f.get(key)]
    return _between([f"{s:.2f}" for s in sorted(shares)])


def _between(values: list[str]) -> str:
    """The first and the last of some values, or one if they are the same."""
    if not values:
        return ""
    return values[0] if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _changes(figures: Sequence[dict[str, Any]]) -> str:
    """The range of the change of the accuracy over runs, in points.

    >>> _changes([{"accuracy_before": {"share": 0.5}, "accuracy_after": {"share": 0.49}}])
    '-1.00'
    """
    changes = [
        100 * (f["accuracy_after"]["share"] - f["accuracy_before"]["share"])
        for f in figures
        if "accuracy_after" in f
    ]
    return _between([f"{change:+.2f}" for change in sorted(changes)])
