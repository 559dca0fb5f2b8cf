"""The template: where the public models expect eyes, nose and mouth."""

import numpy as np
import pytest

from centerarc.data.alignment import arcface_template


def test_points_are_those_of_the_public_models() -> None:
    left_eye, right_eye, nose, left_mouth, right_mouth = arcface_template()
    assert left_eye.tolist() == [38.2946, 51.6963]
    assert right_eye.tolist() == [73.5318, 51.5014]
    assert nose.tolist() == [56.0252, 71.7366]
    assert left_mouth.tolist() == [41.5493, 92.3655]
    assert right_mouth.tolist() == [70.7299, 92.2041]


def test_other_sizes_scale_about_the_centre_of_the_first_pixel() -> None:
    np.testing.assert_allclose(arcface_template(224), 2 * arcface_template(112), rtol=1e-15)
    assert arcface_template(56)[0].tolist() == [38.2946 / 2, 51.6963 / 2]
    with pytest.raises(ValueError, match="size is 0"):
        arcface_template(0)


def test_changing_the_result_does_not_change_the_template() -> None:
    arcface_template()[:] = 0
    assert arcface_template()[0, 0] == 38.2946
