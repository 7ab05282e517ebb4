"""The house: what imports what, what is found by itself, what is fast."""

import ast
import graphlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import keras_backdoor
from keras_backdoor._internals import discovery, stubs

PACKAGE = Path(keras_backdoor.__file__).parent
ORDER = (
    "errors", "_safe", "_internals", "bundled", "progress", "metrics", "samples", "triggers", "network", "datasets",
    "loading", "architectures", "evaluation", "training", "attacks", "answers", "methods", "explanations",
    "defenses", "serving", "reports", "studies", "commands", "__main__",
)  # fmt: skip
"""Folders and modules of the package; each imports only those before it, and itself."""
ONE_PLACE = {
    "art", "kerassurgeon", "cv2", "matplotlib", "jinja2", "rich", "ray", "fsspec", "tempfile",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = ("keras_backdoor", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Modules that a file imports; imports for type checking alone do not count."""
    tree, known, found = ast.parse(path.read_text()), {name_of(p) for p in modules()}, set()
    types = [
        n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)
    ]
    left_out = {id(n) for block in types for n in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & known) or {node.module}
            found |= {node.module} if inner - known else set()
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def own_imports() -> dict[str, set[str]]:
    """Module of the package -> the modules of the package that it imports, but itself."""
    return {
        name_of(p): {m for m in imports(p) if m.startswith("keras_backdoor.")} - {name_of(p)}
        for p in modules()
    }


def test_imports_run_one_way() -> None:
    for module, imported in own_imports().items():
        for other in imported if room(module) else ():
            assert ORDER.index(room(other)) <= ORDER.index(room(module)), (
                f"{module} imports {other}"
            )


def test_no_imports_go_in_a_circle() -> None:
    """Inside folders too, and also where an import stands inside a function."""
    tuple(graphlib.TopologicalSorter(own_imports()).static_order())


def test_contributing_shows_the_order() -> None:
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())
    assert " < ".join(n for n in ORDER if n != "__main__") in text.replace("`", "")


def test_every_folder_is_in_the_order() -> None:
    here = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert here - {"__init__"} == set(ORDER)


def test_the_private_interface_of_keras_is_used_in_one_place() -> None:
    private = re.compile(
        r"_keras_history|\._(in|out)bound_nodes|_run_through_graph|_seed_generators|keras\.src|\._trainable_var"
    )
    users = [p.name for p in modules() if private.search(p.read_text())]
    assert users == ["keras_private.py"]


@pytest.mark.parametrize("name", sorted(ONE_PLACE))
def test_what_has_one_place_is_imported_there_alone(name: str) -> None:
    users = [p for p in modules() if any(i.split(".")[0] == name for i in imports(p))]
    allowed = 2 if name == "rich" else 1
    assert len(users) <= allowed, users


def test_import_and_help_are_light() -> None:
    code = (
        "import sys, keras_backdoor, keras_backdoor.commands.app, keras_backdoor.studies.base\n"
        "sys.argv = ['keras-backdoor', '--help']\n"
        "try: keras_backdoor.commands.app.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'tensorflow', 'keras', 'art', 'kerassurgeon', 'cv2', 'matplotlib', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_everything_public_is_found() -> None:
    for name in dir(keras_backdoor):
        assert getattr(keras_backdoor, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = keras_backdoor.nothing_like_it  # type: ignore[attr-defined]


@pytest.mark.parametrize("folder", ["defenses", "triggers", "architectures", "studies"])
def test_a_file_is_named_after_what_it_holds(folder: str) -> None:
    for key in discovery.keys(folder):
        name = discovery.load(folder, key).__name__
        assert name.replace("_", "").lower() == key.replace("_", "")


def test_stubs_are_up_to_date() -> None:
    for path, content in stubs.files().items():
        assert path.read_text() == content, (
            f"run python -m keras_backdoor._internals.stubs ({path})"
        )


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="There is no 'nope' among the defenses; known: "):
        discovery.load("defenses", "nope")


def test_other_backends_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keras_backdoor", "inspect", "models/mnist_badnet.h5"],
        capture_output=True, text=True, cwd=ROOT,
        env={"KERAS_BACKEND": "jax", "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "needs the TensorFlow backend" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and installed into an empty folder."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "zoo"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", place, source],
        check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = place.glob("*.whl")
    assert wheel.stat().st_size < 8 * 2**20
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", place / "site", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    return place / "site"


def test_the_wheel_runs_the_demo_elsewhere(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "keras_backdoor", "demo", "--out", "shown"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "shown" / "figures.json").read_text())
    before, after = figures["before"], figures["after"]
    assert before["attack_success_rate"]["share"] >= 0.95
    assert after["attack_success_rate"]["share"] <= 0.05
    assert after["clean_accuracy"]["share"] >= before["clean_accuracy"]["share"] - 0.03
    page = (tmp_path / "shown" / "page" / "index.html").read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "http" not in page.replace("http-equiv", "")
