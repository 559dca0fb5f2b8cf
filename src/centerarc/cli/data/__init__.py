"""`centerarc data`: what a user has, looked at, checked and made ready for training."""

from cyclopts import App

__all__ = ["app"]

app = App(name="data", help="Look at, check, align, pack and split face images.")
for _name, _help in (
    ("inspect", "Show what a set of images holds."),
    ("check", "Decode every image and report what is wrong with it."),
    ("align", "Cut aligned faces out of photos."),
    ("pack", "Pack images into a .rec file or tar shards."),
    ("split", "Hold people out of a set."),
):
    app.command(
        f"centerarc.cli.data.{_name}:{_name}", name=_name, help=_help, help_format="plaintext"
    )
