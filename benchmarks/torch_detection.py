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
from results import get_flag, record
from scenes import CONFIGS, train_run
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
# Output channels of the blocks of strides 8, 16 and 32.
LEVELS = {"6": 32, "13": 96, "18": 1280}


class Scene(NamedTuple):
    """Pixels, uint8 (3, height, width), and their annotations."""

    pixels: torch.Tensor
    objects: list[Object]


def main() -> None:
    """Run the benchmark."""
    seeds, minutes = int(get_flag("--seeds") or 1), float(get_flag("--minutes") or 0)
    flags = [flag for flag in sys.argv[1:] if not flag.startswith(("--seeds=", "--minutes="))]
    path = f"--flagfile={CONFIGS / 'tux_detect.cfg'}"
    run, _ = flagfile.parse_flags([sys.argv[0], path, BACKBONE, *flags], Run())
    source = SOURCES.build(parse_spec(run.data))
    scenes = {part: read_scenes(source, part) for part in ("train", "test")}
    rows: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        result = train_run([path, BACKBONE, *flags, f"--seed={seed}"])
        seconds = 60 * minutes or result["seconds"]
        test = result["test"]
        rows.setdefault("tfx_finetune", []).append(
            (
                test["objects/map"],
                test["objects/ap50"],
                result["seconds"] / 60,
                run.frozen.epochs * len(scenes["train"]),
            )
        )
        for name, is_backbone_trainable in (("FCOS, backbone frozen", False), ("FCOS, all trained", True)):
            torch.manual_seed(seed)
            network = build_fcos(len(source.labels), is_backbone_trainable)
            scene_count = train_network(network, scenes["train"], source.labels, seconds, seed)
            metrics = compute_ap(network, scenes["test"], source.labels)
            rows.setdefault(name, []).append((*metrics, seconds / 60, scene_count))
            print(name, rows[name][-1], file=sys.stderr)
    lines = ["| | mAP | AP50 | minutes | scenes seen |", "|---|---|---|---|---|"]
    for name, values in rows.items():
        ap, ap50, mean_minutes, scene_count = np.mean(values, 0)
        lines.append(f"| {name} | {ap:.3f} | {ap50:.3f} | {mean_minutes:.1f} | {scene_count:,.0f} |")
    title = f"Detection against PyTorch: MobileNetV2, {seeds} seed{'s' * (seeds > 1)}"
    record(" ".join(["torch_detection", *flags]), title, "\n".join(lines))


def read_scenes(source: Source, part: str) -> list[Scene]:
    """Return the scenes of a split."""
    scenes = []
    for sample in source.read(part).as_numpy_iterator():
        with Image.open(sample["image"].decode()) as image:  # the source yields paths
            pixels = np.array(image.convert("RGB"))
        scenes.append(Scene(torch.from_numpy(pixels).permute(2, 0, 1), parse_objects(sample["objects"].decode())))
    return scenes


def build_fcos(num_classes: int, is_backbone_trainable: bool) -> FCOS:
    """Return FCOS of 320 pixels on the ImageNet weights with frozen normalization."""
    network = torchvision.models.mobilenet_v2(norm_layer=FrozenBatchNorm2d)
    network.load_state_dict(torch.load(assets.fetch_file("torchvision-mobilenet-v2"), map_location="cpu"))
    network.features.requires_grad_(is_backbone_trainable)
    body = BackboneWithFPN(network.features, {name: name for name in LEVELS}, list(LEVELS.values()), 256)
    # BackboneWithFPN adds a level of half the size.
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,)), ((1.0,),) * 4)
    return FCOS(body, num_classes, min_size=320, max_size=320, anchor_generator=anchors, score_thresh=0.02)


def train_network(network: FCOS, scenes: list[Scene], labels: tuple[str, ...], seconds: float, seed: int) -> int:
    """Train for a number of seconds, and return the number of scenes seen."""
    backbone_weights = [weight for weight in network.backbone.body.parameters() if weight.requires_grad]
    backbone_ids = {id(weight) for weight in backbone_weights}
    head_weights = [
        weight for weight in network.parameters() if weight.requires_grad and id(weight) not in backbone_ids
    ]
    groups = [{"params": head_weights, "peak": RATE}] + (
        [{"params": backbone_weights, "peak": RATE / 10}] if backbone_weights else []
    )
    optimizer = torch.optim.AdamW(groups, RATE)
    rng, network = np.random.default_rng(seed), network.train()
    start, scene_count = time.monotonic(), 0
    while (progress := (time.monotonic() - start) / seconds) < 1:
        for group in optimizer.param_groups:  # learning rate by elapsed time: linear warmup for a tenth, then a cosine
            group["lr"] = group["peak"] * min(progress / 0.1, (1 + np.cos(np.pi * progress)) / 2)
        batch = [scenes[index] for index in rng.choice(len(scenes), BATCH, replace=False)]
        examples = [make_example(scene, labels, rng.random() < 0.5) for scene in batch]
        losses = network([pixels for pixels, _ in examples], [target for _, target in examples])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scene_count += BATCH
    return scene_count


def make_example(scene: Scene, labels: tuple[str, ...], flipped: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the input of torchvision's detectors: pixels of 0 to 1, boxes in pixels, and classes from 0."""
    height, width = scene.pixels.shape[1:]
    objects = [obj for obj in scene.objects if not obj.crowd]
    relative_boxes = torch.tensor([obj[1:5] for obj in objects]).reshape(-1, 4)
    boxes = relative_boxes * torch.tensor([width, height, width, height])
    pixels = scene.pixels / 255
    if flipped:
        pixels, boxes = (
            pixels.flip(2),
            torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
        )
    return pixels, {"boxes": boxes, "labels": torch.tensor([labels.index(obj.label) for obj in objects])}


def compute_ap(network: FCOS, scenes: list[Scene], labels: tuple[str, ...]) -> tuple[float, float]:
    """Return mAP@[.5:.95] and AP50."""
    network.eval()
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [{"id": index} for index in range(len(scenes))],
        "categories": [{"id": index, "name": label} for index, label in enumerate(labels)],
        "annotations": [],
    }
    detections = []
    for index, scene in enumerate(scenes):
        height, width = scene.pixels.shape[1:]
        for obj in scene.objects:
            left, top, right, bottom = obj.left * width, obj.top * height, obj.right * width, obj.bottom * height
            box = [left, top, right - left, bottom - top]
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": index, "category_id": labels.index(obj.label)}
                | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(obj.crowd)}
            )
        with torch.inference_mode():
            (prediction,) = network([scene.pixels / 255])
        for box, label, confidence in zip(
            *(prediction[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
        ):
            bbox = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            detections.append({"image_id": index, "category_id": label, "bbox": bbox, "score": confidence})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0]), float(evaluator.stats[1])


if __name__ == "__main__":
    main()
