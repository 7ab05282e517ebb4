"""What setup.cfg cannot say: packages are found, and two data folders are mapped into the wheel."""

from setuptools import find_packages, setup

BUNDLED = {"keras_backdoor._bundled.models": "models", "keras_backdoor._bundled.data": "data"}

setup(
    packages=[*find_packages(include=["keras_backdoor*"]), *BUNDLED],
    package_dir={"keras_backdoor": "keras_backdoor", **BUNDLED},
)
