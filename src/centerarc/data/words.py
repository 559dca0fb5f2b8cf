"""Numbers in words."""


def counted(number: int, one: str, more: str | None = None) -> str:
    """Returns a number with its noun: `1 image`, `2 images`.

    Example:
        >>> counted(1, "person", "people"), counted(2000, "image")
        ('1 person', '2,000 images')
    """
    return f"{number:,} {one if number == 1 else more or one + 's'}"
