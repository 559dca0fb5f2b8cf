"""`centerarc study`."""

import sys
from pathlib import Path
from typing import Annotated

from centerarc.cli.flags import by_flags, flag, spoken


@by_flags
def study(
    file: Path | None = None,
    /,
    *,
    jobs: int | None = None,
    dry_run: Annotated[bool, flag()] = False,
    report_only: Annotated[bool, flag()] = False,
    overwrite: Annotated[bool, flag()] = False,
) -> int:
    """Train several recipes with several seeds, judge them alike, and compare them.

    Each arm of FILE is a change of a common configuration and is trained with every seed, in
    processes of their own. The same command resumes where it was stopped. It ends with a table,
    and with study.json and a page, study.html, in the study's folder.

    Parameters
    ----------
    file
        YAML file of the study; without one a study on drawn faces, which takes under ten minutes
        on two cores and needs no data.
    jobs
        Runs at once; else as the file has it.
    dry_run
        Check the settings of every arm, list the runs and what remains to be done for each; train
        nothing.
    report_only
        Make the result of the runs that are done; train nothing.
    overwrite
        Train runs again that have other settings than FILE, or that diverged.
    """
    from centerarc.cli.tables import show_study, show_study_plan
    from centerarc.io.children import ChildrenStopped
    from centerarc.report.study_page import write_study_page
    from centerarc.training.study import PAGE, RESULT, check_arms, plan_study, run_study
    from centerarc.training.study_config import DRAWN, load_study
    from centerarc.training.study_table import summarize_study
    from centerarc.training.study_tuning import (
        chosen_settings,
        search_lines,
        tried,
        tune_study,
        untuned,
    )

    loaded = load_study(DRAWN if file is None else file)
    if jobs is not None:
        loaded = loaded.with_jobs(jobs)
    if not report_only:
        check_arms(loaded)
    if dry_run or report_only:
        chosen = chosen_settings(loaded)
        if dry_run:
            show_study_plan(plan_study(loaded, chosen=chosen, overwrite=True))
            for line in search_lines(loaded):
                print(line)
            return 0
        if arms := untuned(loaded):
            raise ValueError(
                f"settings of the arms {', '.join(arms)} are still to be searched; give the "
                "command without --report-only"
            )
    try:
        if report_only:
            runs = plan_study(loaded, chosen=chosen)
        else:
            tune_study(loaded, overwrite=overwrite)
            chosen = chosen_settings(loaded)
            runs = run_study(loaded, chosen=chosen, overwrite=overwrite)
    except ChildrenStopped:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130
    said = spoken(
        study,
        {"file": file, "jobs": jobs, "dry_run": False, "report_only": False, "overwrite": False},
    )
    result = summarize_study(
        loaded, runs, command=said, chosen=chosen, tuning=tried(loaded) or None, say=print
    )
    result.write(loaded.study_dir / RESULT)
    show_study(result)
    print(f"result: {loaded.study_dir / RESULT}")
    try:
        write_study_page(loaded.study_dir / PAGE, result)
        print(f"page: {loaded.study_dir / PAGE}")
    except ImportError as error:
        print(f"no page: {error}")
    return 0 if result.complete else 1
