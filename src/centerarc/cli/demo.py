"""`centerarc demo`."""


def demo(
    *,
    run_dir: str = "runs/demo",
    people: int = 240,
    epochs: int = 3,
    seed: int = 0,
) -> int:
    """Train on drawn faces for a few minutes and write a page about the result.

    Needs no data and no network. Goes on where the same command was stopped; replaces a finished
    or another demonstration in the folder.

    Args:
        run_dir: Folder of the run; the page is report.html in it.
        people: Drawn people to train on.
        epochs: Passes over their images.
        seed: Of the weights and the batches.
    """
    from centerarc.training.demo import demo_config, run_demo
    from centerarc.training.interrupts import TrainingInterrupted

    config = demo_config(run_dir, people=people, epochs=epochs, seed=seed)
    try:
        result = run_demo(config)
    except TrainingInterrupted:
        print("stopped; the same command goes on where it was")
        return 130
    accuracy = result.verification.accuracy
    assert accuracy.value is not None
    assert accuracy.interval is not None
    print(
        f"accuracy on unseen people {100 * accuracy.value:.2f} % "
        f"(95 % interval {100 * accuracy.interval.low:.2f} to {100 * accuracy.interval.high:.2f})"
    )
    print(f"page: {result.page.resolve()}")
    return 0
