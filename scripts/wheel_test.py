"""Test the wheel in new environments and in a folder outside the repository.

    python scripts/wheel_test.py build/wheel-test          (make wheel-test)

The script builds the wheel, installs it without extras, and runs the doctor, the quickstart, predict and evaluate. Then
it checks every extra in an environment of its own: a command that needs the extra names it while it is missing, and
works once it is installed. $TFX_FINETUNE_CACHE holds weights and data, if it is set.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import wave
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SHIPPED = ("tfx_finetune", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
RUN = ("--frozen.epochs=1", "--finetune.epochs=0", "--frozen.augmented_views=1", "--nocache.enabled")
NET = ("--data=photos", "--backbone=convnet(size=24, channels=3, widths=(8, 16))")

NEEDS = {
    "tune": ["tune", *NET, *RUN, "--trials=1", "--space=frozen.learning_rate=log(1e-3, 1e-2)", "--workdir=tuned"],
    "data": ["data", *NET, "--workdir=looked"],
    "onnx": ["export", "--bundle=small/bundle", "--exports=onnx()"],
    "openvino": ["export", "--bundle=small/bundle", "--exports=openvino()"],
    "quantizer": ["export", "--bundle=small/bundle", "--exports=ai_edge()"],
    "serve": ["serve", "--bundle=nowhere"],
    "audio": ["inspect", "--data=sounds", "--backbone=audio_net()"],
    "text": ["inspect", "--data=texts", "--backbone=use_multilingual()"],
    "hub": ["inspect", "--data=texts", "--backbone=minilm()"],
    "weights": ["doctor"],
}
"""A command that needs the extra, by extra."""
REQUIRED_EXTRAS = {"hub": "text"}
"""Another extra that the command of an extra needs."""


def build(folder: Path) -> Path:
    """Build the wheel from a copy of this checkout that has no files of earlier builds."""
    shutil.rmtree(folder / "tree", ignore_errors=True)
    for name in SHIPPED:
        source, target = ROOT / name, folder / "tree" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "tree"]
    result = subprocess.run(pip, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(result.stderr)
    return next(folder.glob("tfx_finetune-*.whl"))


def install_uv(folder: Path) -> Path:
    """Install uv, which shares downloaded packages between environments, and return its path."""
    venv.create(folder / "uv", with_pip=True)
    subprocess.run([folder / "uv" / "bin" / "python", "-m", "pip", "install", "-q", "uv"], check=True)
    return folder / "uv" / "bin" / "uv"


class Environment:
    """New environment, with a folder outside the repository in which commands run.

    Args:
        uv: Path of uv.
        folder: Folder of the environments; commands run in `folder / "work"`.
        name: Name of the environment.
        requirement: Requirement to install.
    """

    def __init__(self, uv: Path, folder: Path, name: str, requirement: str) -> None:
        self.name, self.work, self.python = name, folder / "work", folder / name / "bin" / "python"
        self.work.mkdir(exist_ok=True)
        subprocess.run([uv, "venv", "-q", "--seed", "--python", sys.executable, folder / name], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", self.python, requirement], check=True)

    def call(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        """Run Python and check its exit status."""
        hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        inherited = {key: value for key, value in os.environ.items() if key not in hidden}
        variables = {"TFX_FINETUNE_CACHE": str(self.work.parent / "cache")} | inherited | {"COLUMNS": "200"}
        command = [str(self.python), *map(str, arguments)]
        result = subprocess.run(command, cwd=self.work, env=variables, capture_output=True, text=True)
        expect(result.returncode == status, f"{self.name}: {' '.join(command)}\n{result.stdout}{result.stderr}")
        return result

    def run(self, name: str, *arguments: object, status: int = 0) -> str:
        """Run a command of the package and return all that it printed."""
        print(f"{self.name}: {name} {' '.join(map(str, arguments))}", flush=True)
        result = self.call("-m", f"tfx_finetune.{name}", *arguments, status=status)
        return result.stdout + result.stderr


def expect(condition: bool, message: str) -> None:
    """Exit with a message if a condition is false."""
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def write_samples(work: Path) -> None:
    """Write images, recordings and texts of two classes."""
    rng = np.random.default_rng(0)
    for number, kind in enumerate(("dark", "light")):
        for part in ("photos", "sounds", "texts"):
            (work / part / kind).mkdir(parents=True, exist_ok=True)
        for index in range(24):
            pixels = rng.integers(100 * number, 100 * number + 140, (24, 24, 3), np.uint8)
            Image.fromarray(pixels).save(work / "photos" / kind / f"{index}.png")
            (work / "texts" / kind / f"{index}.txt").write_text(f"{kind} night number {index}")
            with wave.open(str(work / "sounds" / kind / f"{index}.wav"), "wb") as sound:
                sound.setparams((1, 2, 16000, 0, "NONE", ""))
                sound.writeframes(rng.integers(-(2**14), 2**14, 16000, np.int16).tobytes())


def check_main_path(environment: Environment) -> None:
    """Run the quickstart, and predict and evaluate with its bundle."""
    print(environment.run("doctor"))
    print(environment.run("train", "--flagfile=configs/quickstart.cfg", "--workdir=quick"))
    picture = next((environment.work / "quick" / "bundle" / "golden").glob("*.png"))
    lines = environment.run("predict", "--bundle=quick/bundle", "--format=tflite_int8", picture).splitlines()
    expect("label" in json.loads(lines[0]), f"predict: {lines}")
    scores = environment.run("evaluate", "--bundle=quick/bundle", "--data=tux_stamps()", "--format=saved_model")
    print(scores)
    accuracy = json.loads(re.findall(r"^\{.*\}$", scores, re.MULTILINE)[-1])["label/accuracy"]
    expect(accuracy > 0.8, f"evaluate: {accuracy}")
    environment.run("train", *NET, *RUN, "--workdir=small")


def check_extra(uv: Path, folder: Path, wheel: Path, base: Environment, name: str) -> None:
    """Check that a command names a missing extra, and works once the extra is installed."""
    before, extras = base, name
    if other := REQUIRED_EXTRAS.get(name):
        before, extras = Environment(uv, folder, f"{name}_without", f"{wheel}[{other}]"), f"{name},{other}"
    after = Environment(uv, folder, name, f"{wheel}[{extras}]")
    page = base.work / "looked" / "data.html"
    for environment, status in (
        (before, 0 if name in ("data", "weights") else 2),
        (after, 2 if name == "serve" else 0),
    ):
        output = environment.run(*NEEDS[name], status=status)
        output += page.read_text() if name == "data" else ""
        is_named = f"tfx_finetune[{name}]" in output
        expect(is_named == (environment is before), f"{name} is {'' if is_named else 'not '}named: {output}")
    for environment in {before, after} - {base}:
        shutil.rmtree(folder / environment.name)


def main() -> None:
    """Run all checks."""
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheel, uv = build(folder), install_uv(folder)
    base = Environment(uv, folder, "base", str(wheel))
    write_samples(base.work)
    check_main_path(base)
    for name in NEEDS:
        check_extra(uv, folder, wheel, base, name)
    shutil.rmtree(folder)
    print(f"passed: {wheel.name}, alone and with each of {len(NEEDS)} extras")


if __name__ == "__main__":
    main()
