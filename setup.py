"""Everything is in pyproject.toml; this file keeps old build front ends working."""

from setuptools import setup

setup()
