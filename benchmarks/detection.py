"""Measure detection of unseen objects on unseen photographs: pretrained, fine-tuned and from scratch.

    python benchmarks/detection.py [--seeds=3] [--scratch_epochs=N] [--rows=a,b] [any flag of tfx_finetune.train]

Trains configs/tux_detect.cfg as it is, with its backbone frozen or fine-tuned, and from scratch. Writes a table into
benchmarks/RESULTS.md: COCO's mAP and AP50 on the test scenes (means over seeds), the drop of the int8 file, and the
minutes of training, those of the frozen features included.

Other rows are trained only if --rows names them: torchvision_mobilenet_v2 and ssd_mobilenet_v2 have another backbone (a
MobileNetV2 of ImageNet, and one of a detector); fpn, pan, diou and one place have another neck, another box loss, or
one positive per object as in CenterNet.
"""

from scenes import SceneBenchmark, compare

BACKBONES = {name: (f"--backbone={name}(size=320)",) for name in ("torchvision_mobilenet_v2", "ssd_mobilenet_v2")}
HEADS = {
    "fpn": ("--heads=detect(neck=fpn(dim=96))",),
    "pan": ("--heads=detect(neck=pan(dim=96))",),
    "diou": ("--heads=detect(box_loss='diou')",),
    "one place": ("--heads=detect(topk=1)",),
}


def main() -> None:
    """Run the benchmark."""
    scores = {"mAP": "objects/map", "AP50": "objects/ap50", "AP75": "objects/ap75"}
    title = "Detection: tux_scenes()"
    rows = BACKBONES | HEADS
    compare(SceneBenchmark("detection", "tux_detect.cfg", title, scores, "objects/map", "points of mAP", rows))


if __name__ == "__main__":
    main()
