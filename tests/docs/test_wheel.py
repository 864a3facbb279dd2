"""The wheel holds the package, all of it and nothing else; `make wheel-test` installs and uses it."""

import ast
import configparser
import email
import os
import re
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

import tfx_finetune
from scripts.wheel_test import build
from tfx_finetune.core.extras import EXTRAS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, opened. Building it takes setuptools from PyPI."""
    try:
        path = build(tmp_path_factory.mktemp("wheel"))
    except SystemExit as error:
        if os.environ.get("CI") or "No matching distribution found for setuptools" not in str(error):
            pytest.fail(str(error))
        pytest.skip("no setuptools from PyPI")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_it_holds_the_package_and_nothing_else(wheel):
    """Modules, the report's templates and the configs; no tests, notebooks or leftovers of earlier builds."""
    package = ROOT / "tfx_finetune"
    wanted = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    wanted |= {f"tfx_finetune/report/templates/{path.name}" for path in (package / "report" / "templates").iterdir()}
    wanted |= {"tfx_finetune/py.typed"} | {
        f"tfx_finetune/configs/{path.name}" for path in (ROOT / "configs").glob("*.cfg")
    }
    information = f"tfx_finetune-{tfx_finetune.__version__}.dist-info/"
    assert {name for name in wheel.namelist() if not name.startswith(information)} == wanted
    assert f"{information}licenses/LICENSE" in wheel.namelist()
    assert wheel.read("tfx_finetune/configs/quickstart.cfg") == (ROOT / "configs" / "quickstart.cfg").read_bytes()


def test_its_metadata(wheel):
    """Name, version and licence, a lower bound for whatever it needs, and extras that say what they add."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "tfx_finetune"
    assert metadata["Version"] == tfx_finetune.__version__
    assert metadata["License"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra")) == {*EXTRAS, "dev", "docs"}
    for need in metadata.get_all("Requires-Dist"):
        assert ">=" in need or "==" in need, f"{need} has no lower bound"


def test_every_import_is_declared():
    """A distribution that a module imports is in setup.cfg, as other distributions may cease to require it."""
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    extras = dict(declared["options.extras_require"])
    del extras["dev"], extras["docs"]
    wanted = "\n".join([declared["options"]["install_requires"], *extras.values()])
    names = {canonicalize_name(re.match(r"[\w.-]+", line)[0]) for line in wanted.splitlines() if line[:1].isalpha()}
    owners = packages_distributions()
    for path in (ROOT / "tfx_finetune").rglob("*.py"):
        for module in imported(path) - {"tfx_finetune", *sys.stdlib_module_names}:
            distributions = {canonicalize_name(owner) for owner in owners.get(module, [module])}
            assert distributions & names, f"{path} imports {module}, which setup.cfg does not require"


def imported(path: Path) -> set[str]:
    """Top names of the modules that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def test_one_version():
    """The changelog's head and the citation are of the version that is released."""
    version = tfx_finetune.__version__
    heads = re.findall(r"^## (\S+)(?: - (\S+))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = next((name, date) for name, date in heads if name != "Unreleased")
    citation = (ROOT / "CITATION.cff").read_text().splitlines()
    assert released[0] == version
    assert f"version: {version}" in citation
    assert f"date-released: {released[1]}" in citation
