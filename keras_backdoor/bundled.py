"""Files that come with the package: in the installed wheel, or in the checkout."""

from pathlib import Path

from keras_backdoor.errors import BadInput

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """The path of a bundled file, e.g. `models/mnist_badnet.h5`.

    Raises:
        BadInput: no such file comes with the package.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / name).is_file():
            return root / name
    raise BadInput(f"No file '{name}' comes with keras_backdoor.")
