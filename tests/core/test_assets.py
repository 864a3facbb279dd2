"""Packages of weights and data, which the real clients download from small local archives."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers.small_data import complaint
from tfx_finetune.core import assets
from tfx_finetune.core.catalog import ASSETS, Asset

pytestmark = pytest.mark.usefixtures("empty_cache")

CONTENT = b"the content"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Configure the clients as on a machine without network and without the package lists of apt."""
    closed_port = "http://127.0.0.1:9/"
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null"; Dir::State "{tmp_path}/apt";'
    )
    for name, value in {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": closed_port,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "npm_config_registry": closed_port,
        "npm_config_fetch_retries": "0",
        "npm_config_cache": str(tmp_path / "npm"),
        "APT_CONFIG": str(tmp_path / "apt.conf"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in a folder that is the only index of pip."""
    monkeypatch.setitem(ASSETS, "small", Asset("pypi", "tfx-small", "1.0", "tfx_small/data", "MIT", {"a.bin": DIGEST}))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    path = tmp_path / "wheels" / "tfx_small-1.0-py3-none-any.whl"
    write_wheel(path, CONTENT)
    return path


def write_wheel(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tfx_small/__init__.py", "")
        archive.writestr("tfx_small/data/a.bin", content)
        archive.writestr("tfx_small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tfx-small\nVersion: 1.0\n")
        archive.writestr("tfx_small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tfx_small-1.0.dist-info/RECORD", "")


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """A Debian repository with one package, and package lists in a folder of the test, which needs no root."""
    root = tmp_path / "deb" / "package"
    (root / "DEBIAN").mkdir(parents=True)
    control = "Package: tfx-small\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: small\n"
    (root / "DEBIAN" / "control").write_text(control)
    (root / "usr" / "share" / "tfx-small").mkdir(parents=True)
    (root / "usr" / "share" / "tfx-small" / "a.bin").write_bytes(CONTENT)
    file = root.parent / "small.deb"
    subprocess.run(["dpkg-deb", "-b", root, file], check=True, capture_output=True)
    packages = f"{control}Filename: ./small.deb\nSize: {file.stat().st_size}\n"
    packages += f"SHA256: {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
    (root.parent / "Packages").write_text(packages)
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{root.parent} ./\n")
    (tmp_path / "apt" / "lists" / "partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list"; Dir::Etc::sourceparts "/dev/null";'
        f'Dir::State "{tmp_path}/apt"; Dir::Cache "{tmp_path}/apt"; APT::Sandbox::User "root";'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    asset = Asset("debian", "tfx-small", "", "usr/share/tfx-small", "MIT", {"a.bin": DIGEST})
    monkeypatch.setitem(ASSETS, "small", asset)
    return file


def test_a_wheel_is_unpacked_into_the_cache(wheel, empty_cache):
    """A second call downloads nothing."""
    folder = assets.fetch("small")
    assert folder == empty_cache / "packages" / "tfx-small-1.0" / "tfx_small" / "data"
    assert assets.fetch_file("small").read_bytes() == CONTENT
    wheel.unlink()
    assert assets.fetch("small") == folder
    assert [path.name for path in (empty_cache / "packages").iterdir()] == ["tfx-small-1.0"]


def test_a_debian_package_is_unpacked_without_root(debian, empty_cache):
    """apt-get download and dpkg-deb -x write only into the cache."""
    assert assets.fetch("small") == empty_cache / "packages" / "tfx-small-any" / "usr" / "share" / "tfx-small"
    assert assets.fetch_file("small").read_bytes() == CONTENT
    assert not os.path.lexists("/usr/share/tfx-small")


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"half"), lambda path: path.unlink()])
def test_a_damaged_cache_is_repaired(wheel, damage):
    """A truncated or deleted file is downloaded again."""
    damage(assets.fetch_file("small"))
    assert assets.fetch_file("small").read_bytes() == CONTENT


def test_installed_packages_are_used(tmp_path, monkeypatch):
    """Installed packages of PyPI and Debian are not downloaded."""
    folder = tmp_path / "site" / "tfx_small" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "a.bin").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    digests = {"a.bin": DIGEST}
    monkeypatch.setitem(ASSETS, "wheel", Asset("pypi", "tfx-small", "1.0", "tfx_small/data", "MIT", digests))
    monkeypatch.setitem(ASSETS, "deb", Asset("debian", "tfx-small", "", str(folder).lstrip("/"), "MIT", digests))
    assert assets.fetch("wheel") == assets.fetch("deb") == folder


@pytest.mark.usefixtures("offline")
def test_an_installed_package_with_other_content_is_not_used(tmp_path, monkeypatch):
    """A newer release may have other weights, so that the version of the catalog is downloaded."""
    (tmp_path / "stamps").mkdir()
    asset = Asset("debian", "tfx-small", "", f"{tmp_path}/stamps".lstrip("/"), "MIT", {"a.bin": DIGEST})
    monkeypatch.setitem(ASSETS, "small", asset)
    assert complaint(assets.fetch, "small").startswith(
        "The package tfx-small cannot be downloaded: E: Unable to locate"
    )


def test_a_package_with_other_checksums_is_an_error(wheel, empty_cache):
    """The registry may have other content under the same name and version."""
    write_wheel(wheel, b"other content")
    folder = empty_cache / "packages" / "tfx-small-1.0" / "tfx_small" / "data"
    assert complaint(assets.fetch, "small").startswith(f"The content of tfx-small has other checksums: {folder}. ")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("registry", "reason", "command"),
    [
        ("pypi", "ERROR: Could not find a version that satisfies", "pip install --no-deps tfx-small==1.0"),
        ("npm", "npm error FetchError: request to http://127.0.0.1:9/tfx-small", "npm pack tfx-small@1.0, then unpack"),
        (
            "debian",
            "E: Unable to locate package tfx-small",
            "as root apt-get update && apt-get install tfx-small; or, on",
        ),
    ],
)
def test_no_network(empty_cache, monkeypatch, registry, reason, command):
    """The error has the reason of the client and the command to type; the cache has no incomplete files."""
    if registry == "npm" and not shutil.which("npm"):
        pytest.skip("npm is not installed")
    monkeypatch.setitem(ASSETS, "small", Asset(registry, "tfx-small", "1.0", "data", "MIT"))
    message = complaint(assets.fetch, "small")
    assert message.startswith(f"The package tfx-small cannot be downloaded: {reason}")
    assert f"Check the network connection, or install it by hand: {command}" in message
    assert list((empty_cache / "packages").iterdir()) == []


@pytest.mark.parametrize("registry", ["npm", "debian"])
def test_no_client(monkeypatch, tmp_path, registry):
    """Some machines have no npm, or are not Debian."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(ASSETS, "small", Asset(registry, "tfx-small", "1.0", "data", "MIT"))
    client = {"npm": "npm", "debian": "apt-get"}[registry]
    assert f"cannot be downloaded: [Errno 2] No such file or directory: '{client}'" in complaint(assets.fetch, "small")


def test_a_broken_archive(debian, empty_cache):
    """The error of dpkg names an archive with the right checksum that it cannot open."""
    debian.write_bytes(b"!<arch>\nbroken")
    packages = debian.parent / "Packages"
    lines = packages.read_text().splitlines()[:-2]
    digest = hashlib.sha256(debian.read_bytes()).hexdigest()
    packages.write_text("\n".join([*lines, f"Size: {debian.stat().st_size}", f"SHA256: {digest}", ""]))
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    assert complaint(assets.fetch, "small").startswith("The package tfx-small cannot be downloaded: dpkg-deb: error: ")
    assert list((empty_cache / "packages").iterdir()) == []


def test_npm_archives_write_only_into_their_folder(tmp_path):
    """A malicious archive cannot write into other folders."""
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "in").mkdir()
    with pytest.raises(tarfile.OutsideDestinationError):
        assets._unpack(path, tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_parallel_downloads(wheel):
    """Processes that share a cache all get the complete content."""
    with ThreadPoolExecutor(3) as pool:
        inodes = list(pool.map(lambda _: assets.fetch_file("small").stat().st_ino, range(3)))
    assert assets.fetch_file("small").read_bytes() == CONTENT
    assert len(set(inodes)) == 1, "a process replaced a file that another one may be reading"


def test_unknown_names_and_caches(tmp_path):
    """An unknown name and a cache that cannot be written are errors."""
    message = complaint(assets.fetch, "tux-stamp")
    assert message.startswith("Unknown package of weights or data: tux-stamp. Expected: efficientnet-lite0, ")
    assert message.endswith("Did you mean tux-stamps?")
    (tmp_path / "file").write_text("")
    assets.set_cache_dir(str(tmp_path / "file"))
    assert complaint(assets.fetch, "mnist").startswith(f"The cache cannot be written: {tmp_path}/file/packages")


def test_cache_folder(monkeypatch, tmp_path):
    """The flag wins over the environment variable, which wins over the default folder."""
    assets.set_cache_dir("")
    for name, path in (
        ("HOME", ".cache/tfx_finetune"),
        ("XDG_CACHE_HOME", "tfx_finetune"),
        ("TFX_FINETUNE_CACHE", ""),
    ):
        monkeypatch.delenv("TFX_FINETUNE_CACHE", raising=False)
        if name == "HOME":
            monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(name, str(tmp_path / name))
        assert assets.get_cache_dir() == tmp_path / name / path
    assets.set_cache_dir("~/packages")
    assert assets.get_cache_dir() == tmp_path / "HOME" / "packages"


def test_the_table_of_licenses():
    """docs/explanation/licenses.md has a row for every downloaded package, with the license of the catalog."""
    rows = (Path(__file__).parent.parent.parent / "docs" / "explanation" / "licenses.md").read_text().splitlines()
    row_of_package = {name: row for row in rows if row.startswith("|") for name in re.findall("`([^`]+)`", row)}
    licenses = {asset.package: asset.license for asset in ASSETS.values()}
    assert set(row_of_package) == set(licenses)
    for package, license in licenses.items():
        assert row_of_package[package].endswith(f"| {license} |")
