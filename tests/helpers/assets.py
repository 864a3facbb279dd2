"""Weights and data for tests, fetched by the package."""

import os
from pathlib import Path

import pytest

from tfx_finetune.core import assets
from tfx_finetune.core.errors import UserError


def fetch_asset(name: str) -> Path:
    """Return the folder of an asset; if it cannot be downloaded, skip the test, or fail it in CI."""
    try:
        return assets.fetch(name)
    except UserError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(error))
