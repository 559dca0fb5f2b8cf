"""`centerarc data`: what a user has, looked at, checked and made ready for training."""

from cyclopts import App

__all__ = ["app"]

app = App(name="data", help="Look at, check, align, pack and split face images.")
# Here and not in the docstrings, which can only be read by importing the commands. The first
# paragraph is what `centerarc data --help` shows.
_HELP = {
    "inspect": (
        "Show what a set of images holds; reads headers only, decodes nothing.",
        "How many images each person has, how much of the data the people with most images hold, "
        "sizes, formats and colour of the files, and what was left out when the source was opened. "
        "All goes to the terminal, and with --report to a page.",
        "Exit code: 0 done, 2 wrong input, 130 interrupted.",
    ),
    "check": (
        "Decode every image and report what is wrong: damage, duplicates, wrong labels.",
        "Errors are images that must not be trained on, warnings deserve a look, notes are good to "
        "know. A table goes to the terminal, the list of images to leave out to the file of "
        "--problems, everything to that of --json, a page with pictures to that of --report. "
        "Nothing is changed or deleted.",
        "Exit code: 0 no errors, 1 there are errors, 2 wrong input, 130 interrupted.",
    ),
    "align": (
        "Cut the faces out of photos, turned and scaled so that eyes, nose and mouth lie the same.",
        "The face of PHOTOS/ann/1.png becomes OUT/ann/1.jpg; what became of each photo is in "
        "OUT/alignment.csv. After a stop, by whatever, the same command resumes with what is left; "
        "photos and landmarks that changed since are done again.",
        "Exit code: 0 done, 2 wrong input, 130 interrupted.",
    ),
    "pack": (
        "Pack labelled faces into a few large files, which any disk reads fast.",
        "Images keep their order and, unless --size or --quality asks for others, their bytes. "
        "Each is decoded once; damaged ones are left out and named in OUT/left-out.csv. After a "
        "stop, by whatever, the same command resumes where it was, from OUT/.centerarc-pack, and "
        "the result has the same bytes.",
        "Exit code: 0 done, 2 wrong input, 130 interrupted.",
    ),
    "split": (
        "Split a set of faces by people, so that no one held out is seen in training.",
        "Writes OUT/train.txt and OUT/held-out.txt, the names of the people, for data.identities "
        "of a training and --identities of data pack; where images are files also OUT/train.csv "
        "and OUT/held-out.csv, lists that are sources themselves. The choice depends on the names, "
        "the seed and who has enough images alone, so the same command gives the same lists. The "
        "files of another split stay, and --overwrite replaces them. For three parts, split again "
        "with --identities OUT/train.txt.",
        "Exit code: 0 done, 2 wrong input, 130 interrupted.",
    ),
}
for _name, _paragraphs in _HELP.items():
    app.command(
        f"centerarc.cli.data.{'pack' if _name == 'split' else _name}:{_name}",
        name=_name,
        help="\n\n".join(_paragraphs),
        help_format="plaintext",
    )
