"""What all pages share."""

import subprocess
import sys

import pytest

from centerarc.report import rendering, require_report_extra
from centerarc.report.rendering import tied

pytest.importorskip("plotly")


def test_flags_and_signed_numbers_are_not_broken():
    assert tied("95% of <b> --folds and -1.5 to +2") == (
        '95% of &lt;b&gt; <span class="tied">--folds</span> and '
        '<span class="tied">-1.5</span> to +2'
    )
    # Who copies a command must get what was typed.
    assert tied("--title '5% a-b'") == '<span class="tied">--title</span> &#39;5% a-b&#39;'


def test_a_missing_extra_is_one_clear_sentence(monkeypatch):
    require_report_extra()
    monkeypatch.setattr(rendering, "find_spec", lambda name: None if name == "plotly" else object())
    with pytest.raises(ImportError, match=r"needs plotly: pip install 'centerarc\[report\]'"):
        require_report_extra()


def test_plotly_is_not_loaded_with_the_package():
    code = "import sys, centerarc.evaluation; sys.exit('plotly' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
