"""What this package's own metadata asks of an environment, and what of that is installed."""

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
    """Python, this package, the packages that it always needs, and those of its extras."""
    if _get_version(PACKAGE_NAME) is None:
        todo = "pip install . in its folder, so that what it needs is known and installed"
        return [Diagnosis(PACKAGE_NAME, "warning", f"{tfx_finetune.__version__} runs, but is not installed", todo)]
    return [check_python(), check_package(), *check_packages(), *map(check_extra, EXTRAS)]


def check_python() -> Diagnosis:
    """Whether this is a Python that the package is for."""
    from packaging.specifiers import SpecifierSet

    version = platform.python_version()
    found = f"{version} on {platform.system()} {platform.machine()}"
    wanted = metadata.metadata(PACKAGE_NAME)["Requires-Python"] or ""
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Diagnosis("Python", "ok", found)
    return Diagnosis("Python", "broken", f"{found}; {wanted} is needed", "make an environment of another Python")


def check_package() -> Diagnosis:
    """Whether what is installed is what runs."""
    running, installed = tfx_finetune.__version__, _get_version(PACKAGE_NAME)
    if running == installed:
        return Diagnosis(PACKAGE_NAME, "ok", running)
    todo = f"install it again: pip install --upgrade {PACKAGE_NAME}, or pip install -e . in a checkout"
    return Diagnosis(PACKAGE_NAME, "warning", f"{running} runs, {installed} is installed", todo)


def check_packages() -> list[Diagnosis]:
    """The packages that are always needed: one line where all fit, and one for each that does not.

    What they need themselves is a warning: many of them claim more than they use.
    """
    wanted = read_requirements(PACKAGE_NAME)
    found = [
        Diagnosis(need.name, "broken", said, _make_install_command(need)) for need, said in find_unmet(wanted).items()
    ]
    found += [
        Diagnosis(owner, "warning", f"{owner} wants {said}", _make_install_command(need))
        for owner in sorted(_collect_dependencies(wanted))
        for need, said in find_unmet(read_requirements(owner)).items()
    ]
    versions = ", ".join(f"{name} {version}" for name in _SHOWN_PACKAGES if (version := _get_version(name)))
    return found or [Diagnosis("packages", "ok", f"{len(wanted)} as required: {versions}")]


def check_extra(name: str) -> Diagnosis:
    """Which packages of an extra are missing, and what the extra adds."""
    what, wanted = f"extra {name}", read_requirements(PACKAGE_NAME, name)
    if missing := find_unmet(wanted):
        absent = [need.name for need in missing if not _get_version(need.name)]
        said = [f"not installed: {', '.join(absent)}"] * bool(absent)
        said += [why for need, why in missing.items() if need.name not in absent]
        return Diagnosis(what, "optional", "; ".join(said), f"pip install '{PACKAGE_NAME}[{name}]' adds {EXTRAS[name]}")
    return Diagnosis(what, "ok", ", ".join(f"{need.name} {_get_version(need.name)}" for need in wanted))


def read_requirements(name: str, extra: str = "") -> list["Requirement"]:
    """What the metadata of an installed package asks for on this machine: always, or for one extra alone."""
    from packaging.requirements import Requirement

    needs = [Requirement(text) for text in metadata.requires(name) or []]
    always = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    return [need for need in needs if need not in always and need.marker and need.marker.evaluate({"extra": extra})]


def find_unmet(needs: Iterable["Requirement"]) -> Mapping["Requirement", str]:
    """The requirements that what is installed does not meet, and in which way."""
    found = {}
    for need in needs:
        version = _get_version(need.name)
        if version is None:
            found[need] = f"{need.name}{need.specifier}, which is not installed"
        elif not need.specifier.contains(version, prereleases=True):
            found[need] = f"{need.name}{need.specifier}, {version} is installed"
    return found


def _make_install_command(need: "Requirement") -> str:
    return f"pip install {f'{need.name}{need.specifier}'!r}"


def _collect_dependencies(needs: Iterable["Requirement"]) -> set[str]:
    """The installed packages that are needed, those that they need, and so on."""
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    queue = list(needs)
    while queue:
        name = canonicalize_name(queue.pop().name)
        if name not in found and _get_version(name):
            found.add(name)
            queue += read_requirements(name)
    return found


def _get_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
