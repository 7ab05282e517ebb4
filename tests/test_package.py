"""The house: what imports what, what is found by itself, what is fast."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import keras_backdoor
from keras_backdoor import _discovery, _stubs

PACKAGE = Path(keras_backdoor.__file__).parent
LEVELS = [
    {"errors"},
    {"_discovery", "_files", "_settings", "_backend", "_h5", "_h5_probe", "_zip", "_scratch", "bundled", "progress", "metrics"},
    {"_pictures", "_images", "_arrays", "_npz"},
    {"samples", "triggers"},
    {"_graph", "_units", "classifier", "activations", "channels", "pruning", "architectures", "datasets", "poisoning", "training", "pruning_aware",
     "loading", "_layer_config", "_model_config", "_model_weights", "modelcard", "evaluation", "inspection"},
    {"answers"},
    {"defenses", "explanations"},
    {"serving"},
    {"studies"},
    {"catalogue"},
    {"demo", "reports", "_console", "commands", "cli", "__main__", "_stubs"},
]  # fmt: skip
ONE_PLACE = {"art", "kerassurgeon", "cv2", "matplotlib", "jinja2", "rich", "ray", "tempfile"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "keras_backdoor" and len(parts) > 1 else None


def level(name: str) -> int:
    for number, names in enumerate(LEVELS):
        if name in names:
            return number
    raise AssertionError(f"{name} has no level in LEVELS: place it where it belongs")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",):
        return
    rooms = {p.stem for p in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir()}
    for module in imports(path):
        there = room(module)
        if there in rooms and there != parts[0]:
            assert level(there) <= level(parts[0]), f"{path} imports {module}"


@pytest.mark.parametrize("name", sorted(ONE_PLACE))
def test_what_has_one_place_is_imported_there_alone(name: str) -> None:
    users = [p for p in modules() if any(i.split(".")[0] == name for i in imports(p))]
    allowed = 2 if name == "rich" else 1
    assert len(users) <= allowed, users


def test_import_and_help_are_light() -> None:
    code = (
        "import sys, keras_backdoor, keras_backdoor.cli, keras_backdoor.studies.base\n"
        "sys.argv = ['keras-backdoor', '--help']\n"
        "try: keras_backdoor.cli.main()\n"
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
    for key in _discovery.keys(folder):
        name = _discovery.load(folder, key).__name__
        assert name.replace("_", "").lower() == key.replace("_", "")


def test_stubs_are_up_to_date() -> None:
    for path, content in _stubs.files().items():
        assert path.read_text() == content, f"run python -m keras_backdoor._stubs ({path})"


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="There is no 'nope' among the defenses; known: "):
        _discovery.load("defenses", "nope")


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
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info"))
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


def test_setup_lists_every_package() -> None:
    folders = [p.parent.relative_to(PACKAGE.parent) for p in PACKAGE.rglob("__init__.py")]
    setup = (PACKAGE.parent / "setup.cfg").read_text().splitlines()
    missing = [f for f in folders if f"    {'.'.join(f.parts)}" not in setup]
    assert missing == []
