"""The suite under other versions, with `pip install nox uv`.

nox -s lowest                              # what pyproject.toml admits at least
nox -s newest-3.13                         # what an installation without constraints.txt gets today
nox -s lowest -- tests/test_wavelet.py     # words after -- go to pytest
"""

from __future__ import annotations

import nox

PYTHONS = ["3.11", "3.12", "3.13"]

# what other versions warn of is shown; only with the pins is a warning an error
PYTEST = ("python", "-m", "pytest", "-W", "default")

nox.options.sessions = ["lowest"]
nox.options.default_venv_backend = "uv"  # which also fetches Pythons that are not here


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Every direct requirement at the lowest version that its range admits and the others allow."""
    session.install("--resolution", "lowest-direct", "-e", ".[app,notebooks,test]")
    session.run(*PYTEST, *session.posargs)


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """What an installation without constraints.txt gets today."""
    session.install("--upgrade", "-e", ".[app,notebooks,test]")
    session.run(*PYTEST, *session.posargs)
