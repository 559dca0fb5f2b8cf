"""`centerarc data`: what a user has, looked at, checked and made ready for training."""

from cyclopts import App

from centerarc.cli.data.align import align
from centerarc.cli.data.check import check
from centerarc.cli.data.inspect import inspect
from centerarc.cli.data.pack import pack, split

__all__ = ["app"]

app = App(name="data", help="Look at, check, align, pack and split face images.")
for command in (inspect, check, align, pack, split):
    app.command(command, help_format="plaintext")
