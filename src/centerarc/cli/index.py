"""`centerarc gallery index`: an approximate search for large galleries in PostgreSQL."""

from typing import Annotated

from centerarc.cli.flags import by_flags, flag


@by_flags
def index(
    gallery: str,
    /,
    *,
    hnsw: Annotated[bool, flag()] = False,
    exact: Annotated[bool, flag()] = False,
    recall: float = 0.99,
) -> int:
    """Make or drop an approximate index of a gallery in PostgreSQL.

    Without one a search compares with every photo, which is exact. With one it compares only with
    the people whom the index finds, everywhere the gallery is used: scores are right, but somebody
    may be missed. How many are is measured with the gallery's own photos, shown, and kept for
    centerarc gallery list. Photos that come later are in the index; make it again to measure again.

    Exit code: 0 done, 1 the recall that was asked for is not reached, 2 wrong input.

    Parameters
    ----------
    gallery
        The gallery's URL.
    hnsw
        Make pgvector's HNSW index, or make it again.
    exact
        Drop the index.
    recall
        For --hnsw: share of the 10 nearest people that is to be found.
    """
    from contextlib import closing

    from centerarc.gallery import Gallery
    from centerarc.io.progress import waiting

    if hnsw == exact:
        raise ValueError("give --hnsw to make an index, or --exact to search without one")
    with closing(Gallery(gallery)) as opened:
        if exact:
            opened.store.drop_index()
            print(f"{opened.store.place} is searched exactly")
            return 0
        with waiting("making the index", "photos"):
            made = opened.store.make_index(recall)
    print(f"{opened.store.place} is searched by {made.words()}")
    return 0 if made.recall >= recall or not made.probes else 1
