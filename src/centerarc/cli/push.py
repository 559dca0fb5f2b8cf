"""`centerarc push`: a trained model on the Hugging Face Hub, or as the folder that goes there."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from centerarc.cli.flags import by_flags, flag


@by_flags
def push(
    model: Path,
    repo_id: str,
    /,
    *,
    private: Annotated[bool, flag()] = False,
    branch: str | None = None,
    message: str | None = None,
    evaluation: Annotated[
        tuple[Path, ...], Parameter(consume_multiple=True, negative="", show_default=False)
    ] = (),
    license: str | None = None,
    to: Path | None = None,
    overwrite: Annotated[bool, flag()] = False,
) -> None:
    """Share a model on the Hugging Face Hub, with a model card.

    Uploads the weights, the settings of the run, and a card of how the model was trained, what was
    measured and what its limits are. Paths of this machine and the list of people trained on stay
    here. Others then use the model as hf://OWNER/NAME. Log in with hf auth login, or set HF_TOKEN.

    With --to the files are written to a folder instead. Once you have read and edited its
    README.md, push the folder.

    Parameters
    ----------
    model
        A run folder, a weights file, or a folder of --to.
    repo_id
        Where to: OWNER/NAME. The repository is made if it is not there.
    private
        Only the owner may read it; a repository that is there and public is refused.
    branch
        Branch to upload to, main by default; it is made if it is not there.
    message
        Message of the commit.
    evaluation
        Files of centerarc evaluate --json to show on the card, of this very model.
    license
        License of the model in the Hub's spelling, e.g. apache-2.0; none is stated by default.
    to
        Write the files to this folder and upload nothing.
    overwrite
        Of --to: replace the model that the folder holds, and its card.
    """
    from rich.console import Console
    from rich.text import Text

    from centerarc.models.pretrained import push_to_hub, save_pretrained

    if to is not None:
        for name, value in (("private", private), ("branch", branch), ("message", message)):
            if value:
                raise ValueError(f"{name} is for an upload; leave it out with --to")
        left_out = save_pretrained(
            model,
            to,
            repo_id=repo_id,
            evaluations=evaluation,
            license=license,
            overwrite=overwrite,
        )
        lines = [f"wrote {model} to {to}; read {to / 'README.md'}, then push the folder"]
    elif overwrite:
        raise ValueError("overwrite is for --to; a repository keeps what was there before")
    else:
        report = push_to_hub(
            model,
            repo_id,
            private=private,
            branch=branch,
            **({} if message is None else {"commit_message": message}),
            evaluations=evaluation,
            license=license,
        )
        left_out = report.left_out
        lines = [f"pushed {model} to {report.url}", f"to use it: {report.model}"]
    if left_out:
        lines.append(f"not published: {', '.join(left_out)}")
    for line in lines:
        Console().print(Text(line), soft_wrap=True)
