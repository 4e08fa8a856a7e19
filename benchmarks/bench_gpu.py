"""Speed of training on a GPU: tokens a second, model FLOP utilisation, HSTU's attention beside torch's.

Without a GPU the same is run on one thread of the processor, in its CPU time, the size of 1 B parameters left
out; the rows say so. Utilisation is FLOPs of `vitrina plan` over seconds of a step, beside the device's own
square matmul in the same precision, measured in the same process. Docs: docs/gpu.md.
"""

import torch

from benchmarks.harness import HERE, OURS, Row, record, run
from benchmarks.scripts.gpu_run import STEPS

SCRIPT = str(HERE / "scripts" / "gpu_run.py")


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print(
            "   no GPU is at hand: one thread of the processor is measured, and the lines of docs/gpu.md wait"
        )
    peer = "matmul of the device"
    for name, case in STEPS.items():
        if case[device] is None:
            print(f"   {name}: waits for a GPU", flush=True)
            continue
        made = run([OURS, SCRIPT, f"step-{name}", device], threads=1).printed
        record(
            Row(
                name="gpu",
                what=f"training step of {name}, {made['what']}, {made['precision']}, {made['device']}",
                ours=round(made["tflops"], 4),
                peer=peer,
                theirs=round(made["peak_tflops"], 4),
                ratio=round(made["utilisation"], 4),
                unit="TFLOP/s",
                target="stated" if device == "cuda" else "waits for a GPU",
                quality={"tokens/s": round(made["tokens_per_s"]), "s a step": round(made["seconds"], 3)},
                extra=made,
            )
        )
    made = run([OURS, SCRIPT, "attention", device], threads=1).printed
    for form, what in (("hstu", "biases of distance and time"), ("hstu_without_time", "bias of distance")):
        record(
            Row(
                name="gpu",
                what=f"HSTU attention, {what}, both passes, {made['what']}, {made['precision']}, "
                f"{made['device']}",
                ours=round(made[form], 2),
                peer=f"torch {torch.__version__.split('+')[0]} scaled_dot_product_attention",
                theirs=round(made["sdpa"], 2),
                ratio=round(made[form] / made["sdpa"], 3),
                unit="ms",
                target="<= 1.5x" if device == "cuda" else "<= 1.5x on a GPU",
                extra=made,
            )
        )


if __name__ == "__main__":
    main()
