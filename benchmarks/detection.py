"""Detection of things never seen over places never seen: what is a pretrained backbone worth, and fine-tuning it?

    python benchmarks/detection.py [--seeds=3] [--scratch_epochs=N] [--rows=a,b] [any flag of tfx_finetune.train]

Trains configs/tux_detect.cfg as it is, with its backbone frozen or tuned, and from scratch, and writes a table into
benchmarks/RESULTS.md: COCO's mAP and AP50 on the test scenes, the mean over seeds, what the int8 file loses, and the
minutes that training took, those of the frozen part's outputs among them.
"""

from scenes import compare


def main() -> None:
    """Runs the benchmark."""
    scores = {"mAP": "objects/map", "AP50": "objects/ap50", "AP75": "objects/ap75"}
    compare("detection", "tux_detect.cfg", "Detection: tux_scenes()", scores, "objects/map", "points of mAP")


if __name__ == "__main__":
    main()
