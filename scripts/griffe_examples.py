"""Read by `scripts/docs.py`: what our docstrings need to become pages of the API."""

import griffe


class Examples(griffe.Extension):
    """Griffe takes a section for code only if it is called `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
