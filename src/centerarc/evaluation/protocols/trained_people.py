"""Whether a model is judged on people that it was trained on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from centerarc.data import read_identities
from centerarc.evaluation.protocols.outcome import Evaluation


def trained_people(weights: Path) -> list[str]:
    """Names of the people that a model was trained on, as its run wrote them beside the weights.

    Args:
        weights: the file of weights.

    Returns:
        The names; none where the model is not from a run of ours, or was moved without them.

    Raises:
        ValueError: the file of names is broken.
    """
    from centerarc.models.weights import PEOPLE_FILE  # loads torch

    file = weights.parent / PEOPLE_FILE
    if weights.suffix != ".safetensors" or not file.is_file():
        return []
    return read_identities(file)


def warn_of_trained_people(evaluation: Evaluation, trained: Sequence[str]) -> Evaluation:
    """The evaluation with a note, and names in its data, if it is of people trained on.

    Args:
        evaluation: what was found.
        trained: names of the people that the model was trained on.
    """
    images = evaluation.images
    if images.labels is None or not trained:
        return evaluation
    judged = {images.identities[label] for label in np.unique(images.labels).tolist()}
    both = sorted(judged & set(trained))
    data = {**evaluation.data, "people_trained_on": both}
    if not both:
        return replace(evaluation, data=data)
    note = (
        f"{len(both):,} of the {len(judged):,} people have the name of somebody whom the model was "
        "trained on: if they are the same people, the results are better than they would be on "
        "others (--json has the names)"
    )
    return replace(evaluation, data=data, notes=(note, *evaluation.notes))
