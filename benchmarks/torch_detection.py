"""Compare detection with PyTorch: torchvision's FCOS on the same MobileNetV2, scenes and time.

    pip install torch torchvision
    python benchmarks/torch_detection.py [--seeds=1] [--minutes=M] [any flag of tfx_finetune.train]

Trains configs/tux_detect.cfg with torchvision's MobileNetV2, then torchvision's FCOS (Tian et al., arXiv 1904.01355)
with a pyramid on the same ImageNet weights for as many minutes, or for `--minutes`: once with a frozen backbone and
once with all layers; AdamW at 5e-4 (5e-5 below the pyramid), one cycle, batches of 8, random flips. Writes a table into
benchmarks/RESULTS.md: pycocotools' mAP and AP50 on the test scenes, and the number of scenes seen in training.
"""

import contextlib
import io
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from results import record, said
from scenes import CONFIGS, trained
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import FrozenBatchNorm2d

from tfx_finetune.core import assets, flagfile
from tfx_finetune.core.config import Run
from tfx_finetune.core.spec import parse_spec
from tfx_finetune.ops.objects import Object, parse_objects
from tfx_finetune.types.components import SOURCES, Source

BACKBONE = "--backbone=torchvision_mobilenet_v2(size=320)"
BATCH, RATE = 8, 5e-4
# Blocks of strides 8, 16 and 32, and the channels that leave them.
LEVELS = {"6": 32, "13": 96, "18": 1280}


class Scene(NamedTuple):
    """Pixels, uint8 (3, height, width), and their annotations."""

    pixels: torch.Tensor
    objects: list[Object]


def main() -> None:
    """Run the benchmark."""
    seeds, minutes = int(said("--seeds") or 1), float(said("--minutes") or 0)
    flags = [flag for flag in sys.argv[1:] if not flag.startswith(("--seeds=", "--minutes="))]
    path = f"--flagfile={CONFIGS / 'tux_detect.cfg'}"
    run, _ = flagfile.parse_flags([sys.argv[0], path, BACKBONE, *flags], Run())
    source = SOURCES.build(parse_spec(run.data))
    scenes = {part: read(source, part) for part in ("train", "test")}
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        ours = trained([path, BACKBONE, *flags, f"--seed={seed}"])
        seconds = 60 * minutes or ours["seconds"]
        test = ours["test"]
        rows.setdefault("tfx_finetune", []).append(
            (test["objects/map"], test["objects/ap50"], ours["seconds"] / 60, run.frozen.epochs * len(scenes["train"]))
        )
        for name, whole in (("FCOS, backbone frozen", False), ("FCOS, all trained", True)):
            torch.manual_seed(seed)
            network = fcos(len(source.labels), whole)
            seen = fit(network, scenes["train"], source.labels, seconds, seed)
            found = score(network, scenes["test"], source.labels)
            rows.setdefault(name, []).append((*found, seconds / 60, seen))
            print(name, rows[name][-1], file=sys.stderr)
    lines = ["| | mAP | AP50 | minutes | scenes seen |", "|---|---|---|---|---|"]
    for name, each in rows.items():
        ap, ap50, took, seen = np.mean(each, 0)
        lines.append(f"| {name} | {ap:.3f} | {ap50:.3f} | {took:.1f} | {seen:,.0f} |")
    title = f"Detection against PyTorch: MobileNetV2, {seeds} seed{'s' * (seeds > 1)}"
    record(" ".join(["torch_detection", *flags]), title, "\n".join(lines))


def read(source: Source, part: str) -> list[Scene]:
    """Return the scenes of a split."""
    found = []
    for sample in source.read(part).as_numpy_iterator():
        with Image.open(sample["image"].decode()) as picture:  # it holds the path
            pixels = np.array(picture.convert("RGB"))
        found.append(Scene(torch.from_numpy(pixels).permute(2, 0, 1), parse_objects(sample["objects"].decode())))
    return found


def fcos(classes: int, whole: bool) -> FCOS:
    """Return FCOS of 320 pixels on the ImageNet weights with frozen normalization."""
    network = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d)
    network.load_state_dict(torch.load(assets.fetch_file("torchvision-mobilenet-v2"), map_location="cpu"))
    network.features.requires_grad_(whole)
    body = BackboneWithFPN(network.features, {name: name for name in LEVELS}, list(LEVELS.values()), 256)
    # BackboneWithFPN adds a level of half the size.
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    return FCOS(body, classes, min_size=320, max_size=320, anchor_generator=anchors, score_thresh=0.02)


def fit(network: FCOS, scenes: list[Scene], labels: tuple[str, ...], seconds: float, seed: int) -> int:
    """Train for a number of seconds, and return the number of scenes seen."""
    body = [weight for weight in network.backbone.body.parameters() if weight.requires_grad]
    below = {id(weight) for weight in body}
    above = [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in below]
    groups = [{"params": above, "peak": RATE}] + ([{"params": body, "peak": RATE / 10}] if body else [])
    optimizer = torch.optim.AdamW(groups, RATE)
    rng, network = np.random.default_rng(seed), network.train()
    began, seen = time.monotonic(), 0
    while (share := (time.monotonic() - began) / seconds) < 1:
        for group in optimizer.param_groups:  # the rate by the time that has passed: up for a tenth, down by a cosine
            group["lr"] = group["peak"] * min(share / 0.1, (1 + np.cos(np.pi * share)) / 2)
        chosen = [scenes[at] for at in rng.choice(len(scenes), BATCH, replace=False)]
        pairs = [example(scene, labels, rng.random() < 0.5) for scene in chosen]
        losses = network([pixels for pixels, _ in pairs], [target for _, target in pairs])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        seen += BATCH
    return seen


def example(scene: Scene, labels: tuple[str, ...], flipped: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the input of torchvision's detectors: pixels of 0 to 1, boxes in pixels, and classes from 0."""
    height, width = scene.pixels.shape[1:]
    kept = [each for each in scene.objects if not each.crowd]
    shares = torch.tensor([each[1:5] for each in kept]).reshape(-1, 4)
    boxes = shares * torch.tensor([width, height, width, height])
    pixels = scene.pixels / 255
    if flipped:
        pixels, boxes = (
            pixels.flip(2),
            torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
        )
    return pixels, {"boxes": boxes, "labels": torch.tensor([labels.index(each.label) for each in kept])}


def score(network: FCOS, scenes: list[Scene], labels: tuple[str, ...]) -> tuple[float, float]:
    """Return mAP@[.5:.95] and AP50."""
    network.eval()
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": at} for at in range(len(scenes))],
        "categories": [{"id": at, "name": label} for at, label in enumerate(labels)],
        "annotations": [],
    }
    found = []
    for at, scene in enumerate(scenes):
        height, width = scene.pixels.shape[1:]
        for each in scene.objects:
            left, top, right, bottom = each.left * width, each.top * height, each.right * width, each.bottom * height
            box = [left, top, right - left, bottom - top]
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": at, "category_id": labels.index(each.label)}
                | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(each.crowd)}
            )
        with torch.inference_mode():
            (said_of_it,) = network([scene.pixels / 255])
        for box, label, sure in zip(*(said_of_it[key].tolist() for key in ("boxes", "labels", "scores")), strict=True):
            extent = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append({"image_id": at, "category_id": label, "bbox": extent, "score": sure})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(found), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return float(judge.stats[0]), float(judge.stats[1])


if __name__ == "__main__":
    main()
