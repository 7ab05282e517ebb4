"""Files bundled with the package, in the installed wheel or in the source tree."""

from pathlib import Path

from keras_backdoor.errors import BadInput

_PACKAGE = Path(__file__).resolve().parent


def path(name: str) -> Path:
    """Return the path of a bundled file.

    Args:
        name: the relative path of the file, for example `models/mnist_badnet.h5`.

    Raises:
        BadInput: there is no such file.
    """
    for root in (_PACKAGE / "_bundled", _PACKAGE.parent):
        if (root / name).is_file():
            return root / name
    raise BadInput(f"There is no bundled file '{name}' in keras_backdoor.")
