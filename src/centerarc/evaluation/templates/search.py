"""1:N over templates: the probes against each gallery of a protocol."""

from collections.abc import Sequence

import numpy.typing as npt

from centerarc.evaluation.identification.gallery_search import GallerySearch, search_gallery
from centerarc.evaluation.templates.pooling import Templates


def search_templates(
    templates: Templates,
    galleries: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]],
    probes: tuple[npt.ArrayLike, npt.ArrayLike],
) -> list[GallerySearch]:
    """Search every gallery for every probe, as IJB-B and IJB-C do in their mixed 1:N protocol.

    A probe is mated in the gallery that holds its subject and a stranger to all others;
    :func:`centerarc.evaluation.identification.evaluate_identification` takes the mean over them.

    Args:
        templates: all templates.
        galleries: ids and subjects of each gallery's templates, as of
            :func:`centerarc.evaluation.formats.ijb_metadata.read_ijb_subjects`.
        probes: the same of the probes.

    Returns:
        One search for each gallery.

    Raises:
        ValueError: no gallery, a template that there is not, or subjects that do not fit.
    """
    if not galleries:
        raise ValueError("galleries must hold at least one gallery")
    wanted = templates.embeddings[templates.rows(probes[0])]
    return [
        search_gallery(templates.embeddings[templates.rows(ids)], subjects, wanted, probes[1])
        for ids, subjects in galleries
    ]
