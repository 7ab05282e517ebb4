"""Findings as SARIF 2.1.0, with the identifiers of MITRE ATLAS and NIST AI 100-2.

SARIF (Static Analysis Results Interchange Format, OASIS 2020) is what continuous integration and
code hosts read. Every rule below names what it looks for; a result says whether a file fails it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from keras_backdoor.answers import FlaggedClasses, FlaggedSamples, RepairedModel
from keras_backdoor.loading.inspection import Inspection
from keras_backdoor.reports import sentences

Kind = Literal["fail", "review", "open", "pass"]
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
ATLAS, NIST = "MITRE ATLAS", "NIST AI 100-2"
TAXONOMIES: dict[str, dict[str, Any]] = {
    ATLAS: {
        "version": "5.0.0",
        "informationUri": "https://atlas.mitre.org",
        "taxa": {
            "AML.T0018.000": "Poison AI Model",
            "AML.T0020": "Poison Training Data",
            "AML.T0043.004": "Insert Backdoor Trigger",
            "AML.T0011.000": "Unsafe AI Artifacts",
        },
    },
    NIST: {
        "version": "E2025",
        "informationUri": "https://doi.org/10.6028/NIST.AI.100-2e2025",
        "taxa": {"NISTAML.023": "Backdoor Poisoning"},
    },
}
"""The versions of the catalogs whose identifiers and names are used."""


@dataclass(frozen=True)
class Rule:
    """What is looked for.

    Attributes:
        id: the identifier, which never changes its meaning.
        name: the name in one word.
        text: a sentence.
        taxa: identifiers in `TAXONOMIES`.
    """

    id: str
    name: str
    text: str
    taxa: tuple[str, ...]


HOSTILE_FILE = Rule(
    "KB001",
    "HostileModelFile",
    "The model file contains code or references that loading it would run or follow.",
    ("AML.T0011.000",),
)
TARGET_CLASS = Rule(
    "KB002",
    "BackdooredClass",
    "A trigger turns images of other classes into this class.",
    ("AML.T0018.000", "NISTAML.023"),
)
POISONED_DATA = Rule(
    "KB003",
    "PoisonedTrainingImages",
    "Training images were changed so that a network learns a backdoor from them.",
    ("AML.T0020", "NISTAML.023"),
)
TRIGGERED_IMAGE = Rule(
    "KB004",
    "TriggeredImages",
    "Incoming images bear the trigger of a backdoor.",
    ("AML.T0043.004", "NISTAML.023"),
)
REPAIR = Rule(
    "KB005",
    "RepairedModel",
    "A repair of the model has to be shown to work before the model is deployed.",
    ("AML.T0018.000", "NISTAML.023"),
)
RULES = (HOSTILE_FILE, TARGET_CLASS, POISONED_DATA, TRIGGERED_IMAGE, REPAIR)


@dataclass(frozen=True)
class Finding:
    """One result.

    Attributes:
        rule: what was looked for.
        kind: `fail` for a finding, `review` for a suspicion, `open` if there is no decision and
            `pass` if nothing was found.
        text: what was found.
        about: the kind of file that it is about: model, train or incoming.
        of: what the finding is about within the file, such as `class 7`; for the fingerprint.
        properties: further values.
    """

    rule: Rule
    kind: Kind
    text: str
    about: str = "model"
    of: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)


def document(answers: Sequence[Any], files: Mapping[str, Path | str]) -> dict[str, Any]:
    """A SARIF log with one run.

    Args:
        answers: the answers of scans and audits, repairs and inspections.
        files: kind -> the examined file: model, train or incoming.

    Returns:
        The JSON values of the log.
    """
    places = list(files)
    model_hash = next((h for h in map(_model_hash, answers) if h), None)
    artifacts = []
    for kind, path in files.items():
        artifact: dict[str, Any] = {"location": {"uri": _uri(path)}, "roles": ["analysisTarget"]}
        if kind == "model" and model_hash:
            artifact["hashes"] = {"sha-256": model_hash}
        artifacts.append(artifact)
    results = [
        _result(finding, answer, places, files)
        for answer in answers
        for finding in findings(answer)
    ]
    driver = {
        "name": "keras-backdoor",
        "semanticVersion": version("keras_backdoor"),
        "rules": [_rule(rule) for rule in RULES],
        "supportedTaxonomies": [{"name": name, "index": i} for i, name in enumerate(TAXONOMIES)],
    }
    run = {
        "tool": {"driver": driver},
        "taxonomies": [_taxonomy(name) for name in TAXONOMIES],
        "artifacts": artifacts,
        "results": results,
        "invocations": [{"executionSuccessful": True}],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def identifiers(answer: Any) -> list[dict[str, Any]]:
    """The identifiers of what an answer is about: name and version of a catalog, and its entries.

    Args:
        answer: an answer, or an inspection.

    Returns:
        One dictionary for each catalog, with `name`, `version` and `ids`; empty if the answer is
        about no attack.
    """
    taxa = list(dict.fromkeys(t for f in findings(answer) for t in f.rule.taxa))
    found = []
    for name, catalog in TAXONOMIES.items():
        own = [taxon for taxon in taxa if taxon in catalog["taxa"]]
        if own:
            found.append({"name": name, "version": catalog["version"], "ids": own})
    return found


@singledispatch
def findings(answer: Any) -> list[Finding]:
    """The findings of an answer; one implementation for each kind of answer is registered."""
    return []


@findings.register
def _(answer: Inspection) -> list[Finding]:
    if answer.verdict == "safe":
        return [Finding(HOSTILE_FILE, "pass", "Loading the file runs nothing.")]
    kind: Kind = "fail" if answer.verdict == "hostile" else "open"
    texts = [text for severity, text in answer.findings if severity == answer.verdict]
    return [
        Finding(HOSTILE_FILE, kind, text, of=text.replace(str(answer.path), ""))
        for text in texts or [answer.meaning]
    ]


@findings.register
def _(answer: FlaggedClasses) -> list[Finding]:
    decided = answer.verdict == "found"
    found = [] if decided else [_undecided(TARGET_CLASS, answer)]
    method = answer.about.get("settings", {}).get("method", "the scan")
    for number in np.flatnonzero(answer.flagged | answer.suspects).tolist():
        label = sentences.class_label(number, answer.about)
        score = float(answer.scores[number])
        flagged = bool(answer.flagged[number]) and decided
        what = "is the target" if flagged else "may be a target"
        text = f"{label[0].upper()}{label[1:]} {what} of a backdoor"
        more = {"class": number, "score": score if np.isfinite(score) else None}
        if number in answer.triggers:
            more["l1Norm"] = answer.triggers[number].l1
        if number in answer.source:
            more["sourceClass"] = answer.source[number]
        found.append(
            Finding(
                TARGET_CLASS, "fail" if flagged else "review", f"{text} ({method}).",
                of=f"class {number}", properties=more,
            )
        )  # fmt: skip
    return found


@findings.register
def _(answer: FlaggedSamples) -> list[Finding]:
    about = answer.about.get("examined") or "train"
    rule = POISONED_DATA if about == "train" else TRIGGERED_IMAGE
    if answer.verdict != "found":
        return [_undecided(rule, answer, about)]
    number = int(answer.flagged.sum())
    groups = [name for name, group in answer.groups.items() if group.flagged]
    where = f" Flagged groups: {', '.join(groups)}." if groups else ""
    text = f"{number:,} of the {len(answer.flagged):,} images are flagged.{where}"
    more = {"flagged": number, "images": len(answer.flagged), "groups": groups}
    return [Finding(rule, "fail", text, about, "images", more)]


@findings.register
def _(answer: RepairedModel) -> list[Finding]:
    if answer.verdict == "inconclusive":
        return [_undecided(REPAIR, answer)]
    return [Finding(REPAIR, "pass", sentences.headline(answer)[1])]


def _undecided(rule: Rule, answer: Any, about: str = "model") -> Finding:
    """Nothing found, or no decision."""
    text = sentences.headline(answer)[1].replace("; see below", "")
    kind: Kind = "open" if answer.verdict == "inconclusive" else "pass"
    return Finding(rule, kind, text, about, properties={"caveats": answer.about.get("caveats", [])})


def _result(
    finding: Finding, answer: Any, places: list[str], files: Mapping[str, Path | str]
) -> dict[str, Any]:
    about = finding.about if finding.about in files else places[0]
    method = getattr(answer, "about", {}).get("settings", {}).get("method", "")
    data = getattr(answer, "about", {}).get("data", {}).get(finding.about, "")
    parts = (finding.rule.id, _model_hash(answer), method, finding.of, data)
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    place = {"uri": _uri(files[about]), "index": places.index(about)}
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": RULES.index(finding.rule),
        "kind": finding.kind,
        "level": "error" if finding.kind == "fail" else "none",
        "message": {"text": _literal(finding.text)},
        "locations": [{"physicalLocation": {"artifactLocation": place}}],
        "partialFingerprints": {"finding/v1": digest},
        "properties": {**finding.properties, **({"method": method} if method else {})},
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "name": rule.name,
        "shortDescription": {"text": rule.text},
        "defaultConfiguration": {"level": "error"},
        "relationships": [
            {"target": {"id": taxon, "toolComponent": {"name": name}}, "kinds": ["relevant"]}
            for taxon in rule.taxa
            for name, catalog in TAXONOMIES.items()
            if taxon in catalog["taxa"]
        ],
        "properties": {"tags": ["security", "machine-learning"]},
    }


def _taxonomy(name: str) -> dict[str, Any]:
    catalog = TAXONOMIES[name]
    taxa = [{"id": i, "name": n} for i, n in catalog["taxa"].items()]
    return {
        "name": name,
        "version": catalog["version"],
        "informationUri": catalog["informationUri"],
        "taxa": taxa,
    }


def _literal(text: str) -> str:
    """Text without placeholders and links (SARIF 2.1.0, sections 3.11.5 and 3.11.6).

    >>> _literal("class {0} [x](y)")
    'class {{0}} \\\\[x\\\\](y)'
    """
    for character in "\\[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("{", "{{").replace("}", "}}")


def _model_hash(answer: Any) -> str | None:
    digest = getattr(answer, "sha256", None) or getattr(answer, "about", {}).get("model_sha256")
    return None if digest is None else str(digest)


def _uri(path: Path | str) -> str:
    """A relative path as a relative URI, an absolute one as a file URI."""
    path = Path(path)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
