"""Segmentation of things never seen over places never seen: what is a pretrained backbone worth, and fine-tuning it?

    python benchmarks/segmentation.py [--seeds=3] [--scratch_epochs=N] [--rows=a,b] [any flag of tfx_finetune.train]

Trains configs/tux_segment.cfg as it is, with its backbone frozen or tuned, and from scratch, and writes a table into
benchmarks/RESULTS.md: mIoU, pixel accuracy and boundary F1 on the test scenes, the mean over seeds, what the int8 file
loses, and the minutes that training took, those of the frozen part's outputs among them.
"""

from scenes import compare


def main() -> None:
    """Runs the benchmark."""
    scores = {"mIoU": "mask/miou", "pixel accuracy": "mask/pixel_accuracy", "boundary F1": "mask/boundary_f1"}
    compare("segmentation", "tux_segment.cfg", "Segmentation: tux_scenes()", scores, "mask/miou", "points of mIoU")


if __name__ == "__main__":
    main()
