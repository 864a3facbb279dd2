"""Checks of the installed packages against the requirements of this package."""

import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import tfx_finetune
from tfx_finetune.core.extras import EXTRAS
from tfx_finetune.doctor.diagnosis import Diagnosis

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE_NAME = "tfx_finetune"
_SHOWN_PACKAGES = (
    "tensorflow",
    "keras",
    "tf_keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "numpy",
    "absl-py",
)


def check_all() -> list[Diagnosis]:
    """Check Python, this package, its required packages and the packages of its extras."""
    if _get_version(PACKAGE_NAME) is None:
        hint = "run pip install . in its folder, which installs the required packages as well"
        return [Diagnosis(PACKAGE_NAME, "warning", f"{tfx_finetune.__version__} runs, but is not installed", hint)]
    return [check_python(), check_package(), *check_packages(), *map(check_extra, EXTRAS)]


def check_python() -> Diagnosis:
    """Check the version of Python."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    message = f"{version} on {platform.system()} {platform.machine()}"
    specifier = metadata.metadata(PACKAGE_NAME)["Requires-Python"] or ""
    if SpecifierSet(specifier).contains(version, prereleases=True):
        return Diagnosis("Python", "ok", message)
    return Diagnosis("Python", "broken", f"{message}; {specifier} is needed", "create an environment of that Python")


def check_package() -> Diagnosis:
    """Check that the installed version is the running version."""
    running, installed = tfx_finetune.__version__, _get_version(PACKAGE_NAME)
    if running == installed:
        return Diagnosis(PACKAGE_NAME, "ok", running)
    hint = f"run pip install --upgrade {PACKAGE_NAME}, or pip install -e . in a checkout"
    return Diagnosis(PACKAGE_NAME, "warning", f"{running} runs, {installed} is installed", hint)


def check_packages() -> list[Diagnosis]:
    """Check the required packages: one diagnosis if all fit, else one per package that does not.

    Unmet requirements of the packages themselves are warnings: many packages require more than they use.
    """
    requirements = read_requirements(PACKAGE_NAME)
    diagnoses = [
        Diagnosis(requirement.name, "broken", problem, _make_install_command(requirement))
        for requirement, problem in find_unmet(requirements).items()
    ]
    diagnoses += [
        Diagnosis(package, "warning", f"{package} requires {problem}", _make_install_command(requirement))
        for package in sorted(_collect_dependencies(requirements))
        for requirement, problem in find_unmet(read_requirements(package)).items()
    ]
    versions = ", ".join(f"{name} {version}" for name in _SHOWN_PACKAGES if (version := _get_version(name)))
    return diagnoses or [Diagnosis("packages", "ok", f"{len(requirements)} as required: {versions}")]


def check_extra(name: str) -> Diagnosis:
    """Check the packages of an extra."""
    subject, requirements = f"extra {name}", read_requirements(PACKAGE_NAME, name)
    if unmet := find_unmet(requirements):
        absent = [requirement.name for requirement in unmet if not _get_version(requirement.name)]
        problems = [f"not installed: {', '.join(absent)}"] * bool(absent)
        problems += [problem for requirement, problem in unmet.items() if requirement.name not in absent]
        hint = f"run pip install '{PACKAGE_NAME}[{name}]' to add {EXTRAS[name]}"
        return Diagnosis(subject, "optional", "; ".join(problems), hint)
    versions = ", ".join(f"{requirement.name} {_get_version(requirement.name)}" for requirement in requirements)
    return Diagnosis(subject, "ok", versions)


def read_requirements(name: str, extra: str = "") -> list["Requirement"]:
    """Return the requirements of an installed package on this machine, without extras or of one extra alone."""
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in metadata.requires(name) or []]
    without_extra = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    if not extra:
        return without_extra
    return [r for r in requirements if r not in without_extra and r.marker and r.marker.evaluate({"extra": extra})]


def find_unmet(requirements: Iterable["Requirement"]) -> Mapping["Requirement", str]:
    """Return the unmet requirements, each with its problem."""
    problems = {}
    for requirement in requirements:
        version = _get_version(requirement.name)
        if version is None:
            problems[requirement] = f"{requirement.name}{requirement.specifier}, which is not installed"
        elif not requirement.specifier.contains(version, prereleases=True):
            problems[requirement] = f"{requirement.name}{requirement.specifier}, {version} is installed"
    return problems


def _make_install_command(requirement: "Requirement") -> str:
    return f"run pip install {f'{requirement.name}{requirement.specifier}'!r}"


def _collect_dependencies(requirements: Iterable["Requirement"]) -> set[str]:
    """Return the installed packages that are required, directly or indirectly."""
    from packaging.utils import canonicalize_name

    names: set[str] = set()
    queue = list(requirements)
    while queue:
        name = canonicalize_name(queue.pop().name)
        if name not in names and _get_version(name):
            names.add(name)
            queue += read_requirements(name)
    return names


def _get_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
