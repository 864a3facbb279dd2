"""Measure segmentation of unseen objects on unseen photographs: pretrained, fine-tuned and from scratch.

    python benchmarks/segmentation.py [--seeds=3] [--scratch_epochs=N] [--rows=a,b]
        [any flag of tfx_finetune.train]

Trains configs/tux_segment.cfg as it is, with its backbone frozen or fine-tuned, and from scratch. Writes a table into
benchmarks/RESULTS.md: mIoU, pixel accuracy and boundary F1 on the test scenes (means over seeds), the drop of the int8
file, and the minutes of training, those of the frozen features included.
"""

from scenes import SceneBenchmark, compare


def main() -> None:
    """Run the benchmark."""
    scores = {"mIoU": "mask/miou", "pixel accuracy": "mask/pixel_accuracy", "boundary F1": "mask/boundary_f1"}
    title = "Segmentation: tux_scenes()"
    compare(SceneBenchmark("segmentation", "tux_segment.cfg", title, scores, "mask/miou", "points of mIoU"))


if __name__ == "__main__":
    main()
