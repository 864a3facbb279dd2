"""What a stranger gets: the wheel, in an environment with nothing else, used in a folder with nothing else.

    python scripts/wheel_test.py build/wheel-test          (make wheel-test)

builds the wheel and installs it without extras; runs the doctor, the quickstart, predict and evaluate; then holds, for
each extra, in an environment of its own, that what needs it names it while it is missing and works where it is
installed. It downloads all that a stranger would; $TFX_FINETUNE_CACHE, where it is set, has weights and data.
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
"""For each extra a command that needs it."""
BESIDE = {"hub": "text"}
"""Extras whose command needs another one too."""


def build(folder: Path) -> Path:
    """Builds the wheel of a copy of this checkout, in which no earlier build has left anything."""
    shutil.rmtree(folder / "tree", ignore_errors=True)
    for name in SHIPPED:
        source, target = ROOT / name, folder / "tree" / name
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, folder / "tree"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return next(folder.glob("tfx_finetune-*.whl"))


def installer(folder: Path) -> Path:
    """uv, in an environment of its own: it links what it has once downloaded into every further environment."""
    venv.create(folder / "uv", with_pip=True)
    subprocess.run([folder / "uv" / "bin" / "python", "-m", "pip", "install", "-q", "uv"], check=True)
    return folder / "uv" / "bin" / "uv"


class Stranger:
    """An environment of its own, and a folder outside the repository in which commands run.

    Args:
        uv: Installs.
        folder: Holds the environments; commands run in `folder / "work"`.
        name: Of the environment.
        requirement: What is installed, with all that it needs.
    """

    def __init__(self, uv: Path, folder: Path, name: str, requirement: str) -> None:
        self.name, self.work, self.python = name, folder / "work", folder / name / "bin" / "python"
        self.work.mkdir(exist_ok=True)
        subprocess.run([uv, "venv", "-q", "--seed", "--python", sys.executable, folder / name], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", self.python, requirement], check=True)

    def call(self, *arguments: object, status: int = 0) -> subprocess.CompletedProcess:
        """Runs Python, which has to end with this status."""
        hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
        known = {key: value for key, value in os.environ.items() if key not in hidden}
        environment = {"TFX_FINETUNE_CACHE": str(self.work.parent / "cache")} | known | {"COLUMNS": "200"}
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True)
        expect(done.returncode == status, f"{self.name}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        return done

    def run(self, name: str, *arguments: object, status: int = 0) -> str:
        """Runs a command of the package; all that it printed."""
        print(f"{self.name}: {name} {' '.join(map(str, arguments))}", flush=True)
        done = self.call("-m", f"tfx_finetune.{name}", *arguments, status=status)
        return done.stdout + done.stderr


def expect(true: bool, otherwise: str) -> None:
    """Ends the program where something does not hold."""
    if not true:
        raise SystemExit(f"FAILED: {otherwise}")


def samples(work: Path) -> None:
    """Pictures, sounds and texts of two classes."""
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


def main_path(stranger: Stranger) -> None:
    """The quickstart and what its bundle is for, as the README has it."""
    print(stranger.run("doctor"))
    print(stranger.run("train", "--flagfile=configs/quickstart.cfg", "--workdir=quick"))
    picture = next((stranger.work / "quick" / "bundle" / "golden").glob("*.png"))
    lines = stranger.run("predict", "--bundle=quick/bundle", "--format=tflite_int8", picture).splitlines()
    expect("label" in json.loads(lines[0]), f"predict: {lines}")
    scores = stranger.run("evaluate", "--bundle=quick/bundle", "--data=tux_stamps()", "--format=saved_model")
    print(scores)
    accuracy = json.loads(re.findall(r"^\{.*\}$", scores, re.MULTILINE)[-1])["label/accuracy"]
    expect(accuracy > 0.8, f"evaluate: {accuracy}")
    stranger.run("train", *NET, *RUN, "--workdir=small")


def extra(uv: Path, folder: Path, wheel: Path, base: Stranger, name: str) -> None:
    """Holds that an extra is named where it is missing, and that it is all that is missing."""
    before, wanted = base, name
    if beside := BESIDE.get(name):
        before, wanted = Stranger(uv, folder, f"{name}_without", f"{wheel}[{beside}]"), f"{name},{beside}"
    after = Stranger(uv, folder, name, f"{wheel}[{wanted}]")
    page = base.work / "looked" / "data.html"
    for stranger, status in ((before, 0 if name in ("data", "weights") else 2), (after, 2 if name == "serve" else 0)):
        said = stranger.run(*NEEDS[name], status=status)
        said += page.read_text() if name == "data" else ""
        named = f"tfx_finetune[{name}]" in said
        expect(named == (stranger is before), f"{name} is {'' if named else 'not '}named: {said}")
    for stranger in {before, after} - {base}:
        shutil.rmtree(folder / stranger.name)


def main() -> None:
    """Runs it all."""
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheel, uv = build(folder), installer(folder)
    base = Stranger(uv, folder, "base", str(wheel))
    samples(base.work)
    main_path(base)
    for name in NEEDS:
        extra(uv, folder, wheel, base, name)
    shutil.rmtree(folder)
    print(f"passed: {wheel.name}, alone and with each of {len(NEEDS)} extras")


if __name__ == "__main__":
    main()
