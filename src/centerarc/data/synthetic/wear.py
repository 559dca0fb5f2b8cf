"""What a person wears, and what gets in the way of the camera."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.conditions import Conditions
from centerarc.data.synthetic.geometry import View
from centerarc.data.synthetic.noise import texture
from centerarc.data.synthetic.person import Person
from centerarc.data.synthetic.shapes import bell, coverage, paint

Floats = NDArray[np.float32]


def paint_glasses(albedo: Floats, person: Person, conditions: Conditions, view: View) -> None:
    """Paint a pair of glasses; style 2 are sunglasses."""
    style = conditions.style
    corners = np.asarray([[-40.0, -30.0], [40.0, -30.0], [0.0, -3.0]], dtype=np.float32)
    rows, columns = view.crop(corners, 1.0)
    target = albedo[:, rows, columns]
    u, sharp = np.abs(view.u[rows, columns]), view.scale
    v = view.v[rows, columns] - np.float32(-17.2)
    half_wide, half_high = 11.0 + 2.5 * style[0], 7.2 + 3.3 * style[1]
    round_by = min(half_high - 0.5, 3.0 + 7.0 * style[2])
    centre = max(person.eye_spacing + 0.6, half_wide + 2.3)
    # Signed distance to a rounded box, mirrored.
    box_u = np.abs(u - np.float32(centre)) - np.float32(half_wide - round_by)
    box_v = np.abs(v) - np.float32(half_high - round_by)
    outside = np.sqrt(np.square(np.maximum(box_u, 0.0)) + np.square(np.maximum(box_v, 0.0)))
    distance = outside + np.minimum(np.maximum(box_u, box_v), 0.0) - np.float32(round_by)
    thick = 0.45 + 0.85 * style[3] ** 2
    rim = coverage(np.float32(thick) - np.abs(distance), sharp)
    bridge = coverage(np.float32(thick) - np.abs(v + np.float32(2.0)), sharp)
    bridge *= coverage(np.float32(centre - half_wide) - u, sharp)
    temple = coverage(np.float32(0.9) - np.abs(v + np.float32(3.0)), sharp)
    temple *= coverage(u - np.float32(centre + half_wide), sharp)
    lens = coverage(-distance, sharp)
    if conditions.glasses == 2:
        tint = conditions.frame_colour * np.float32(0.35)
        paint(target, tint, lens * np.float32(0.86 + 0.1 * style[0]))
    else:
        target *= np.float32(1.0) - np.float32(0.08) * lens
    glare = u * np.float32(0.6) + v - np.float32(centre * 0.6 - 4.0 + 8.0 * style[1])
    target += lens * bell(glare, 0.12) * np.float32(0.16 * style[2] * conditions.key)
    paint(target, conditions.frame_colour, np.maximum(np.maximum(rim, bridge), temple))


def paint_hat(
    albedo: Floats, alpha: Floats, edge: Floats, conditions: Conditions, view: View
) -> None:
    """Paint a cap (1) or a knitted hat (2); `edge` is the distance inside the hair's outline."""
    style, sharp = conditions.style, view.scale
    line = (
        view.v
        + np.float32(39.0 - 5.0 * style[0])
        - np.square(view.u) * np.float32(0.006 if conditions.hat == 1 else 0.002)
    )
    above = coverage(-line, sharp)
    mask = above * coverage(edge + np.float32(5.0), sharp)
    if conditions.hat == 1:
        fabric = np.float32(0.85) + np.float32(0.05) * texture(view.size)[: view.size, : view.size]
        band = np.clip(line * np.float32(0.12) + np.float32(1.0), 0.0, 1.0)
        fabric = fabric * (np.float32(1.0) - np.float32(0.45) * np.square(band))
    else:
        ribs = np.cos(view.u * np.float32(1.5 + style[1]))
        fabric = np.float32(0.85) + np.float32(0.14) * ribs
        turn_up = coverage(line + np.float32(11.0), sharp)
        fabric = fabric * (np.float32(1.0) - np.float32(0.25) * turn_up)
    shadow = np.clip(np.float32(1.0) - np.abs(line) * np.float32(0.14), 0.0, 1.0)
    albedo *= np.float32(1.0) - np.float32(0.4) * shadow
    paint(albedo, conditions.item_colour[:, None, None] * fabric, mask)
    np.maximum(alpha, mask, out=alpha)


def paint_scarf(
    albedo: Floats, alpha: Floats, inside: Floats, conditions: Conditions, view: View
) -> None:
    """Paint a face mask (1) or a scarf (2); `inside` is the distance inside the head."""
    style, sharp = conditions.style, view.scale
    folds = texture(view.size)[view.size :, : view.size]
    if conditions.scarf == 1:
        line = view.v + np.float32(2.0 - 3.0 * style[0]) - np.square(view.u) * np.float32(0.009)
        mask = coverage(line, sharp) * coverage(inside + np.float32(0.8), sharp)
        pleats = np.cos(view.v * np.float32(0.9))
        fabric = np.float32(0.9) + np.float32(0.06) * pleats
    else:
        line = view.v - np.float32(14.0 + 8.0 * style[0]) + np.square(view.u) * np.float32(0.004)
        mask = coverage(line, sharp)
        waves = np.cos(line * np.float32(0.55) + folds * np.float32(0.8))
        fabric = np.float32(0.75) + np.float32(0.22) * waves
    colour = conditions.item_colour[:, None, None] * (fabric + np.float32(0.03) * folds)
    paint(albedo, colour, mask)
    np.maximum(alpha, mask, out=alpha)


def paint_hand(
    albedo: Floats, alpha: Floats, person: Person, conditions: Conditions, view: View
) -> None:
    """Paint a hand that covers a part of the face: from below (1) or from a side (2)."""
    style, sharp = conditions.style, view.scale
    side = 1.0 if style[0] < 0.5 else -1.0
    lean = 0.35 * (style[1] - 0.5)
    for finger in range(4):
        spread = 6.4 * (finger - 1.5)
        reach = 20.0 + (4.0 if finger in (1, 2) else 0.0) + 8.0 * style[2]
        if conditions.hand == 1:
            root = (side * 16 + spread, 60.0)
            end = (side * 12 + 0.9 * spread - lean * 40, 60.0 - 1.6 * reach)
        else:
            root = (side * 62.0, 16.0 + spread)
            end = (side * (62.0 - 1.7 * reach), 4.0 + 0.9 * spread + lean * 40)
        du, dv = end[0] - root[0], end[1] - root[1]
        along = (view.u - np.float32(root[0])) * np.float32(du)
        along = along + (view.v - np.float32(root[1])) * np.float32(dv)
        along = np.clip(along * np.float32(1.0 / (du * du + dv * dv)), 0.0, 1.0)
        off = np.sqrt(
            np.square(view.u - np.float32(root[0]) - along * np.float32(du))
            + np.square(view.v - np.float32(root[1]) - along * np.float32(dv))
        )
        inside = np.float32(3.9) - off
        mask = coverage(inside, sharp)
        tone = np.float32(0.5) + np.float32(0.5) * np.clip(inside * np.float32(0.4), 0.0, 1.0)
        paint(albedo, person.skin[:, None, None] * tone, mask)
        np.maximum(alpha, mask, out=alpha)
