"""Everything is declared in setup.cfg; this file lets older front ends build the project."""

from setuptools import setup

setup()
