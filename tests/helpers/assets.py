"""Real weights and data for the tests, fetched by the package's own code."""

import os
from pathlib import Path

import pytest

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError


def asset(name: str) -> Path:
    """Returns the asset's folder; where it cannot be had, skips with the reason, or fails in CI."""
    try:
        return assets.fetch(name)
    except UserError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
