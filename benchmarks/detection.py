"""Detection of things never seen over places never seen: what is a pretrained backbone worth, and fine-tuning it?

    python benchmarks/detection.py [--seeds=3] [--scratch_epochs=N] [--rows=a,b] [any flag of tfx_finetune.train]

Trains configs/tux_detect.cfg as it is, with its backbone frozen or tuned, and from scratch, and writes a table into
benchmarks/RESULTS.md: COCO's mAP and AP50 on the test scenes, the mean over seeds, what the int8 file loses, and the
minutes that training took, those of the frozen part's outputs among them.

Rows that are trained only where --rows names them: torchvision_mobilenet_v2 and ssd_mobilenet_v2 have another backbone,
a MobileNetV2 that learned to classify the pictures of ImageNet, and one that learned to find things; fpn, pan, diou
and one place have another head: another neck or loss of boxes, or a single place that learns an object, as CenterNet.
"""

from scenes import compare

BACKBONES = {name: (f"--backbone={name}(size=320)",) for name in ("torchvision_mobilenet_v2", "ssd_mobilenet_v2")}
HEADS = {
    "fpn": ("--heads=detect(neck=fpn(dim=96))",),
    "pan": ("--heads=detect(neck=pan(dim=96))",),
    "diou": ("--heads=detect(box_loss='diou')",),
    "one place": ("--heads=detect(topk=1)",),
}


def main() -> None:
    """Runs the benchmark."""
    scores = {"mAP": "objects/map", "AP50": "objects/ap50", "AP75": "objects/ap75"}
    title = "Detection: tux_scenes()"
    compare("detection", "tux_detect.cfg", title, scores, "objects/map", "points of mAP", BACKBONES | HEADS)


if __name__ == "__main__":
    main()
