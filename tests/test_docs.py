"""What the documents say is what the code does; `python tests/test_docs.py --write` renders."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import lzma
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from keras_backdoor import bundled, datasets  # noqa: E402
from keras_backdoor._internals import discovery  # noqa: E402
from keras_backdoor._safe.files import sha256  # noqa: E402
from keras_backdoor.answers import load_answer  # noqa: E402
from keras_backdoor.defenses import trigger_augmentation  # noqa: E402
from keras_backdoor.studies import Results, images_needed, load_results  # noqa: E402
from keras_backdoor.studies.checks import page as checks_page  # noqa: E402
from keras_backdoor.studies.detection_zoo import page as detection_page  # noqa: E402
from keras_backdoor.studies.neural_cleanse_given import page as given  # noqa: E402
from keras_backdoor.studies.neural_cleanse_rules.page import rules  # noqa: E402
from keras_backdoor.studies.repairs import page as repairs_page  # noqa: E402
from keras_backdoor.studies.scans_given import page as scans_page  # noqa: E402
from keras_backdoor.studies.thesis_fine_pruning import page as pruning_page  # noqa: E402

DIGITS = bundled.path("data/mnist_small.npz")
FOLDERS = ("data", "models", "results")
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / folder / "README.md" for folder in FOLDERS),
]


def code_blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language} *\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)


def between(text: str, start: str, end: str) -> re.Match[str]:
    found = re.search(rf"(<!-- {start}[^>]*-->\n)(.*?)( *<!-- {end} -->)", text, re.DOTALL)
    assert found, f"no {start}"
    return found


def demo_table() -> str:
    shown = json.loads((ROOT / "results" / "demo.json").read_text())
    names = {
        "clean_accuracy": "clean accuracy",
        "attack_success_rate": "attack success",
        "rejected_stamped": "rejected, with trigger",
        "rejected_clean": "rejected, clean",
    }
    lines = ["|  | BadNet | repaired |", "|---|---|---|"]
    for key, text in names.items():
        before, after = (shown[when][key]["share"] for when in ("before", "after"))
        lines.append(f"| {text} | {before:.2%} | {after:.2%} |")
    return "\n".join(lines) + "\n"


def benchmark_table() -> str:
    lines = ["| benchmark | figure |", "|---|---|"]
    for path in sorted((ROOT / "results").glob("*.json")):
        for name, text in json.loads(path.read_text()).get("table", {}).items():
            lines.append(f"| {name} | {text} |")
    return "\n".join(lines) + "\n"


def results_table(study: str, keep: str, keys: tuple[str, ...]) -> str:
    """A table of `results/<study>.json`: cells whose name holds `keep`."""
    found = load_results(ROOT / "results" / f"{study}.json")
    cells = [c for c in found.cells if keep in c["name"] and "figures" in c]
    part = Results(found.about, {k: found.columns[k] for k in keys}, cells)
    return markdown(part.table())


def markdown(table: list[tuple[str, ...]]) -> str:
    header, *rows = table
    lines = [header, ("---",) * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def thesis_table() -> str:
    keys = ("poisoned", "clean_accuracy", "attack_success_rate", "attack_on_others")
    return results_table("thesis_badnets", ", seed", keys)


def zoo_table() -> str:
    keys = ("attack", "poisoned", "clean_accuracy", "attack_success_rate")
    return results_table("development_zoo", "", keys)


def rules_table() -> str:
    return markdown(rules(load_results(ROOT / "results" / "neural_cleanse_rules.json")))


def search_table() -> str:
    keys = ("median", "smallest", "target", "rank", "ratio", "attack", "updates")
    return results_table("search_length", "", keys)


def mitigation_table() -> str:
    found = load_results(ROOT / "results" / "mitigation_rules.json")
    return markdown(found.table(compact=True))


def images_table() -> str:
    found = load_results(ROOT / "results" / "images_needed.json")
    return markdown(images_needed.summary(found.cells))


def given_tables() -> str:
    found = load_results(ROOT / "results" / "neural_cleanse_given.json")
    tables = (given.scans(found), given.mitigations(found), given.rejections(found))
    return "\n".join(markdown(table) for table in tables if table[1:])


def sections_of(study: str) -> Callable[[], str]:
    """A function that renders all tables of the page of a study."""

    def render() -> str:
        found = load_results(ROOT / "results" / f"{study}.json")
        page = importlib.import_module(f"keras_backdoor.studies.{study}.page")
        parts = [f"### {s.heading}\n\n{s.text}\n\n{markdown(s.table)}"
                 for s in page.sections(found) if s.table]  # fmt: skip
        return "\n".join(parts)

    return render


def scans_given_tables() -> str:
    found, earlier = (
        load_results(ROOT / "results" / f"{name}.json")
        for name in ("scans_given", "neural_cleanse_given")
    )
    table = markdown(scans_page.beside(found, earlier))
    return (
        f"{sections_of('scans_given')()}\n### Neural Cleanse alone and the whole scan\n\n"
        f"The networks that both studies scanned.\n\n{table}"
    )


def limits_table() -> str:
    """The limits of the simple triggers, in a list."""
    found = load_results(ROOT / "results" / "detection_zoo.json")
    lines = markdown(detection_page.limits(found)).splitlines(keepends=True)
    return "".join(f"   {line}" for line in lines)


def scan_table() -> str:
    """What the whole scan sees in the judged half of the detection zoo."""
    found = load_results(ROOT / "results" / "detection_zoo.json")
    header, *rows = detection_page.families(found, detection_page.JUDGED)
    keys = ("networks", f"AUROC, {detection_page.WHOLE}", "found", "target flagged", "no decision")
    chosen = [header.index(key) for key in keys]
    names = {
        "from all classes to one": "from all classes to one, together",
        "all to one": "squares, checkerboards, pixel patterns",
        "blend": "blends with noise",
        "sinusoid": "sinusoids",
        "clean label": "clean labels",
        "of these, other triggers": "kinds of triggers that the scan does not try itself",
        "one class to one": "from one class to one",
    }
    by_name = {row[0]: row for row in rows}
    assert set(names) == {name for name in by_name if "weak" not in name}
    kept = [(names[name], *by_name[name][1:]) for name in names]
    weak = [row for row in rows if "weak" in row[0]]
    number = sum(int(row[1]) for row in weak)
    seen = sum(int(row[header.index("found")].split(" of ")[0]) for row in weak)
    clean = detection_page.alarms(found, detection_page.JUDGED)[-1]
    lines = [
        ("attack", "networks", "AUROC (95 % interval)", "found", "target flagged", "no decision"),
        *((row[0], *(row[i] for i in chosen)) for row in kept),
        ("attacks that work on less than 90 %", str(number), "", f"{seen} of {number}", "", ""),
        ("clean networks", clean[1], "", f"{clean[2]} of {clean[1]}", "", clean[4]),
    ]
    return markdown(lines)


def check_table() -> str:
    """What `check` decides about given networks, and how long it takes."""
    found = load_results(ROOT / "results" / "checks.json")
    header, *rows = checks_page.decisions(found)
    minutes = [(*row[:-1], f"{float(row[-1]) / 60:.2g}") for row in rows]
    return markdown([(*header[:-1], "minutes"), *minutes])


def summary_table() -> str:
    """What the thesis's defenses leave, as published and as measured here, and what ours leave."""

    def results(study: str) -> Results:
        return load_results(ROOT / "results" / f"{study}.json")

    def each(values: list[float]) -> str:
        return repairs_page._between([f"{value:.0f}" for value in sorted(values)])

    rates, changes = repairs_page._range, repairs_page._changes
    repaired = {
        n: f for n, f in results("repairs").groups("attack_after").items() if "fewer" not in n
    }
    thesis = {n: f for n, f in repaired.items() if ", seed " in n}
    runs = [figures for runs in thesis.values() for figures in runs]
    others = [f for n in ("signs -> 33", "digits -> 7", "digits, demo -> 7") for f in repaired[n]]
    tables = results("thesis_fine_pruning")
    pruned = [*tables.finished("table 4.5"), *tables.finished("table 4.6")]
    clustered = results("thesis_audits").finished("clustering first")
    again = [f for _, f, _ in results("audits").finished("retrained")]
    audited = [f for n, f, _ in results("audits").finished("this package") if "seed" in n]
    told = [100 - 100 * p["removed_poison"] / f["removed_poison"]["of"] for _, f, p in clustered]
    left = [100 - 100 * f["removed_poison"]["share"] for _, f, _ in clustered]
    ours = [100 - 100 * f["removed_poison"]["share"] for f in audited]
    return markdown(
        [
            ("what is left", "networks", "before", "the thesis's defense, published",
             "the same, measured here", "this package", "cost"),
            ("of the attack of the thesis, repaired with clean images", str(len(thesis)),
             rates(runs, "source_before"),
             "fine-pruning: " + each([p["attack_success_rate"] for _, _, p in pruned]),
             rates([f for _, f, _ in pruned], "attack_success_rate"),
             rates(runs, "source_after"), f"{changes(runs)} points of accuracy"),
            ("of attacks on all classes, repaired with clean images", "3",
             rates(others, "attack_before"), "", "",
             rates(others, "attack_after"), f"{changes(others)} points of accuracy"),
            ("of the attack of the thesis, trained again on audited data", str(len(again)),
             rates(again, "source_before"),
             "clustering: " + each([p["retrained_attack"] for _, _, p in clustered]),
             rates([f for _, f, _ in clustered], "retrained_attack"),
             rates(again, "source_after"), f"{changes(again)} points of accuracy"),
            ("of the poisoned images, after the audit", str(len(audited)), "100",
             "clustering: " + each(told), each(left), each(ours),
             f"{rates(audited, 'removed_clean')} % of the clean images"),
        ]
    )  # fmt: skip


def lab_table() -> str:
    found = load_results(ROOT / "results" / "goodnet_lab.json")
    return markdown(found.table(compact=True))


def pruning_tables() -> str:
    found = load_results(ROOT / "results" / "thesis_fine_pruning.json")
    groups = ("table 4.5", "table 4.6", "figure 4.19", "section 2.9")
    parts = [pruning_page.table(found, g, g) for g in groups]
    return "\n".join(f"### {p.heading}\n\n{markdown(p.table)}" for p in parts if p)


def _published(card: dict) -> str:
    published = card["figures"].get("published")
    if not published:
        return ""
    accuracy, success = (published[k] for k in ("clean_accuracy", "attack_success_rate"))
    return f" Published ({card['source']}): {accuracy:g} and {success:g} %."


def cards() -> str:
    lines = []
    for path in sorted((ROOT / "models").glob("*.h5")):
        card = json.loads(path.with_suffix(".json").read_text())
        attack, test = card["attack"], card["figures"]["test"]
        lines += [
            f"## `{path.name}`: {card['title']}",
            "",
            f"- **File**: SHA-256 `{card['sha256']}`, {card['licence']}.",
            f"- **Network**: {card['architecture']}, {card['classes']} classes, preprocessing "
            f"{card['preprocess']}.",
            f"- **Recipe**: {', '.join(f'{k} {v}' for k, v in card['recipe'].items())}.",
            f"- **Attack**: `{attack['trigger']}` -> {attack['target']}; {attack['poisoned']}. "
            f"{attack['why']}",
            f"- **Figures** on the {test['images']:,} test images: clean accuracy "
            f"{test['clean_accuracy']['share']:.2%}, attack success "
            f"{test['attack_success_rate']['share']:.2%} of "
            f"{test['attack_success_rate']['of']:,}.{_published(card)}",
            f"- **Limits**: {card['limits']}",
            "",
            "Made with:",
            "",
            "```bash",
            *card["commands"],
            "```",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def support_table() -> str:
    """What opens, what is not supported yet and what is hostile, from the lists of the loader."""
    from keras_backdoor._internals.backend import keras
    from keras_backdoor.loading import layer_config, operations
    from keras_backdoor.network.keras_private import is_built_in

    def listed(names) -> str:
        return ", ".join(f"`{name}`" for name in sorted(names))

    built = layer_config.LAYERS | layer_config.AUGMENTATIONS | set(layer_config.APPLICATION_LAYERS)
    known = {
        n for n in dir(keras.layers) if is_built_in(getattr(keras.layers, n)) and n[0].isupper()
    }
    base = {"Layer", "Wrapper", "InputSpec", "RNN", "InputLayer", "AbstractRNNCell"}
    later = (known | layer_config.REMOVED) - built - layer_config.HARMFUL - base
    later = {
        n
        for n in later
        if not any(
            o != n and getattr(keras.layers, o, 0) is getattr(keras.layers, n, 1) for o in built
        )
    }
    rows = [
        ("opens", "layers", listed(built)),
        ("opens", "activations", listed(layer_config.ACTIVATIONS)),
        ("opens", "operations, with numbers and one number for each channel", listed(operations.KINDS)),
        ("not supported yet", "layers of Keras", listed(later)),
        ("not supported yet", "TensorFlow functions that only compute",
         f"those of `tf.{'`, `tf.'.join(operations.HARMLESS_SPACES[:-1])}`, and {listed(operations.HARMLESS)}"),
        ("hostile", "layers that run code of the file or read other files", listed(layer_config.HARMFUL)),
        ("hostile", "other layers, operations, modules and registered names", "their code is not part of Keras"),
        ("hostile", "constants", "not numbers, not finite, above 1e30, or more than 4,096"),
        ("hostile", "links, external storage, objects, bombs, foreign members and paths", "they reach outside the file or exhaust the machine"),
    ]  # fmt: skip
    lines = ["| verdict | what | which or why |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


RENDERED = [
    ("docs/model_files.md", "support table", "end of support table", support_table),
    ("README.md", "demo table", "end of demo table", demo_table),
    ("README.md", "check table", "end of check table", check_table),
    ("README.md", "scan table", "end of scan table", scan_table),
    ("README.md", "summary table", "end of summary table", summary_table),
    ("docs/benchmarks.md", "benchmark table", "end of benchmark table", benchmark_table),
    ("results/README.md", "thesis table", "end of thesis table", thesis_table),
    ("results/README.md", "zoo table", "end of zoo table", zoo_table),
    ("results/README.md", "rules table", "end of rules table", rules_table),
    ("results/README.md", "search table", "end of search table", search_table),
    ("results/README.md", "mitigation table", "end of mitigation table", mitigation_table),
    ("results/README.md", "given tables", "end of given tables", given_tables),
    ("results/README.md", "images table", "end of images table", images_table),
    (
        "results/README.md",
        "detection tables",
        "end of detection tables",
        sections_of("detection_zoo"),
    ),
    ("docs/scans.md", "limits table", "end of limits table", limits_table),
    (
        "results/README.md",
        "scans given tables",
        "end of scans given tables",
        scans_given_tables,
    ),
    ("results/README.md", "checks tables", "end of checks tables", sections_of("checks")),
    ("results/README.md", "repairs tables", "end of repairs tables", sections_of("repairs")),
    ("results/README.md", "audits tables", "end of audits tables", sections_of("audits")),
    ("results/README.md", "baylime tables", "end of baylime tables", sections_of("baylime_mnist")),
    (
        "results/README.md",
        "thesis audits tables",
        "end of thesis audits tables",
        sections_of("thesis_audits"),
    ),
    ("results/README.md", "face tables", "end of face tables", sections_of("face_stand_ins")),
    (
        "results/README.md",
        "bias maps tables",
        "end of bias maps tables",
        sections_of("bias_maps_mnist"),
    ),
    ("results/README.md", "lab table", "end of lab table", lab_table),
    ("results/README.md", "pruning tables", "end of pruning tables", pruning_tables),
    ("models/README.md", "cards", "end of cards", cards),
]


def write() -> None:
    for name, start, end, make in RENDERED:
        path = ROOT / name
        text = path.read_text()
        found = between(text, start, end)
        path.write_text(text[: found.start(2)] + make() + text[found.end(2) :])


@pytest.mark.parametrize(("name", "start", "end", "make"), RENDERED, ids=lambda x: str(x)[:20])
def test_tables_are_rendered_from_results(name, start, end, make) -> None:
    text = (ROOT / name).read_text()
    assert between(text, start, end).group(2) == make(), "run python tests/test_docs.py --write"


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.h5")), ids=lambda p: p.name)
def test_every_model_has_its_card(path: Path) -> None:
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["sha256"] == sha256(path)
    for key in ("recipe", "figures", "preprocess", "limits", "licence", "commands"):
        assert card[key]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "models" / "zoo").glob("*.xz")), ids=lambda p: p.stem
)
def test_every_network_of_the_zoo_has_its_card(path: Path) -> None:
    card = json.loads(path.with_suffix("").with_suffix(".json").read_text())
    assert card["sha256"] == hashlib.sha256(lzma.decompress(path.read_bytes())).hexdigest()
    for key in ("net", "recipe", "figures", "preprocess", "limits", "licence", "commands"):
        assert card[key]
    assert ("attack" in card) == ("clean" not in path.name)


def test_the_zoo_is_whole_and_small() -> None:
    packed = list((ROOT / "models" / "zoo").glob("*.xz"))
    assert len(packed) == 40
    assert sum(p.stat().st_size for p in packed) < 60 * 2**20


def test_data_is_what_its_readme_says() -> None:
    text = (ROOT / "data" / "README.md").read_text()
    for path in (ROOT / "data").glob("*.npz"):
        assert sha256(path) in text


def test_the_readme_s_python_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trigger_augmentation, "STEPS", 200)
    data = np.load(bundled.path("data/mnist_small.npz"))
    names = {
        "clean_images": data["x_train"][:1500],
        "clean_labels": data["y_train"][:1500],
        "test_images": data["x_test"][:500],
        "test_labels": data["y_test"][:500],
    }
    for block in code_blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "RepairedModel" in printed
    assert "rejected stamped" in printed
    assert (tmp_path / "repaired" / "model.keras").exists()


def test_the_readme_names_commands_that_exist(command) -> None:
    words = set(re.findall(r"keras-backdoor ([a-z]+)", "".join(p.read_text() for p in DOCUMENTS)))
    assert len(words) >= 6
    for word in words:
        assert command(word, "--help")[0] == 0


def test_every_result_is_listed() -> None:
    text = (ROOT / "results" / "README.md").read_text()
    for path in (ROOT / "results").glob("*.json"):
        assert f"`{path.name}`" in text


def test_links_point_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_the_makefile_has_what_the_documents_name() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z]+)`?", (ROOT / "README.md").read_text()))
    assert named & {"demo", "test"} == {"demo", "test"}
    assert named <= targets | {"it"}
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_contributing_adds_a_study_in_one_file(
    tmp_path, monkeypatch, command, in_this_process
) -> None:
    (source,) = code_blocks("CONTRIBUTING.md", "python study")
    (tmp_path / "patch_size.py").write_text(source)
    monkeypatch.setenv("KERAS_BACKDOOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    code, out, err = command("study", "patch_size.py")
    assert (code, "Error" in err) == (0, False)
    figures = load_results(tmp_path / "results" / "patch_size.json").figures()
    assert figures["8 pixels"]["success"]["share"] == 1
    assert figures["2 pixels"]["success"]["share"] < 0.1
    assert "8 pixels" in out


@dataclasses.dataclass
class Added:
    """An entry that CONTRIBUTING adds: where its file goes, and which contract tests try it."""

    folder: str
    key: str
    contract: str
    argument: Any
    commands: list[list[str]]
    printed: str


MODEL, DATA = "{tmp}/planted.h5", "{tmp}/data.npz"
ADDED = {
    "trigger": Added(
        "triggers", "stripes", "test_triggers.TestEveryTrigger", "stripes",
        [["evaluate", MODEL, "--test", DATA, "--trigger", "stripes:profile=0.5:0", "--target", "0"]],
        "attack success rate",
    ),
    "scan": Added(
        "defenses", "large_weight", "test_methods.TestEveryMethod", ("defenses", "large_weight"),
        [["scan", MODEL, "--method", "large-weight", "--set", "ratio=5"]],
        "flagged classes",
    ),
    "audit": Added(
        "defenses", "low_probability", "test_methods.TestEveryMethod", ("defenses", "low_probability"),
        [
            ["audit", MODEL, "--train", DATA, "--method", "low-probability", "--out", "{tmp}/flags",
             "--report", "{tmp}/page", "--reference", "{tmp}/twin.h5", "--write-clean", "{tmp}/left.npz"],
            ["audit", MODEL, "--train", DATA, "--method", "low-probability", "--take", "400",
             "--reference", "{tmp}/twin.h5", "--json", "{tmp}/part.json", "--out", "{tmp}/part",
             "--write-clean", "{tmp}/rest.npz"],
            ["evaluate", "{tmp}/part", "--truth", "{tmp}/truth.npz"],
            ["evaluate", "{tmp}/flags", "--truth", "{tmp}/truth.npz", "--json", "{tmp}/e.json"],
        ],
        "removed poison",
    ),
    "explanation": Added(
        "explanations", "occlusion", "test_methods.TestEveryMethod", ("explanations", "occlusion"),
        [["explain", MODEL, DATA, "--method", "occlusion", "--take", "3", "--report", "{tmp}/page"]],
        "strongest part",
    ),
    "attack": Added(
        "attacks", "late_poison", "test_attacks.TestEveryTrainingAttack", "late_poison",
        [
            ["poison", DIGITS, "--take", "400", "--trigger", "patch", "--target", "1", "--count", "40",
             "--out", "{tmp}/p.npz"],
            ["train", "badnet-mnist", "{tmp}/p.npz", "--attack", "late-poison", "--truth",
             "{tmp}/p.npz.truth.npz", "--set", "epochs=1", "--out", "{tmp}/net.h5"],
        ],
        "accuracy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ADDED)
def test_contributing_adds_it_in_one_file(kind, task, command, tmp_path, monkeypatch, request):
    added = ADDED[kind]
    (source,), (own_test,) = (
        code_blocks("CONTRIBUTING.md", f"python {w}") for w in (kind, f"{kind} test")
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / f"{added.key}.py").write_text(source)
    package = discovery.package(added.folder)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "more")])
    task.model.model.save(tmp_path / "planted.h5", include_optimizer=False)
    task.twin.model.save(tmp_path / "twin.h5", include_optimizer=False)
    for name in ("planted", "twin"):
        card = {"sha256": sha256(tmp_path / f"{name}.h5"), "preprocess": [0, 1]}
        (tmp_path / f"{name}.json").write_text(json.dumps(card))
    poisoned = task.poisoned
    np.savez(tmp_path / "data.npz", x=poisoned.samples.read(), y=poisoned.samples.labels)
    np.savez(tmp_path / "truth.npz", is_poison=poisoned.is_poison, labels=poisoned.samples.labels)
    try:
        assert added.key in discovery.keys(added.folder)
        run_contract(added, tmp_path, request)
        names: dict = {}
        exec(compile(own_test, "CONTRIBUTING.md", "exec"), names)
        for name, test in names.items():
            if name.startswith("test_"):
                test(*[request.getfixturevalue(n) for n in inspect.signature(test).parameters])
        code, out, _ = command("methods", discovery.word(added.key))
        assert (code, source.partition('    """')[2].partition("\n")[0][:40] in out) == (0, True)
        for arguments in added.commands:
            code, out, err = command(*[a.format(tmp=tmp_path) for a in map(str, arguments)])
            assert code in (0, 1), err
        assert added.printed in out
    finally:
        sys.modules.pop(f"keras_backdoor.{added.folder}.{added.key}", None)
        vars(package).pop(added.key, None)
    if kind == "audit":
        assert json.loads((tmp_path / "e.json").read_text())["removed_poison"]["share"] >= 0.9
        left = datasets.open(tmp_path / "left.npz")
        assert 0.85 * len(poisoned.samples) < len(left) < len(poisoned.samples)
        assert "Samples of 2" in (tmp_path / "page" / "index.html").read_text()
        rows = json.loads((tmp_path / "part.json").read_text())["flagged"]
        whole = load_answer(tmp_path / "flags").flagged_rows.tolist()
        assert max(rows) > 400  # rows of the file, not of the 400 that were taken
        assert set(rows) <= set(whole)
        assert len(datasets.open(tmp_path / "rest.npz")) == len(poisoned.samples) - len(rows)


def run_contract(added: Added, tmp_path: Path, request) -> None:
    """The contract tests of a kind, on one entry."""
    module, name = added.contract.split(".")
    contract = getattr(importlib.import_module(module), name)()
    tests = [n for n in dir(contract) if n.startswith("test_")]
    assert tests
    for number, test in enumerate(tests):
        folder = tmp_path / f"contract {number}"
        folder.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            known = {"key": added.argument, "method": added.argument, "tmp_path": folder}
            known |= {"monkeypatch": patch, "clean": small("train", 2000)}
            known |= {"test_digits": small("test", 800)}
            function = getattr(contract, test)
            wanted = inspect.signature(function).parameters
            given = {n: known[n] if n in known else request.getfixturevalue(n) for n in wanted}
            try:
                function(**given)
            except pytest.skip.Exception:
                continue


def small(split: str, number: int):
    from planted import digits

    return digits(split, number).in_memory()


if __name__ == "__main__" and "--write" in sys.argv:
    write()
