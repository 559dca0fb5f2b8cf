"""Features of a face and what is worn on it."""

from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from centerarc.data.synthetic.face import View, bell, coverage, paint, texture
from centerarc.data.synthetic.person import Conditions, Person, linear

# Eyes, brows, mouth and nostrils, painted on small crops of the face.

Floats = NDArray[np.float32]
_SCLERA = linear((205, 198, 194))
_TEETH = linear((226, 216, 202))
_MOUTH = linear((70, 22, 24))


def paint_eyes(albedo: Floats, person: Person, conditions: Conditions, view: View) -> None:
    """Paint both eyes with lids, lashes and brows, in one pass over their mirror images."""
    p, sharp = person, view.scale
    reach_out = p.eye_spacing + 13.5
    corners = [(u, v) for u in (-reach_out, 0.0, reach_out) for v in (-13.0, -33.5)]
    rows, columns = view.crop(corners, 1.5)
    target = albedo[:, rows, columns]
    # Local coordinates: across points to the ear on both sides, along the tilt of the eye.
    side = np.sign(view.u[rows, columns])
    across = np.abs(view.u[rows, columns]) - p.eye_spacing
    down = view.v[rows, columns] + 18.3
    tilt_sin, tilt_cos = np.float32(sin(p.eye_tilt)), np.float32(cos(p.eye_tilt))
    x = across * tilt_cos - down * tilt_sin
    y = down * tilt_cos + across * tilt_sin
    along = x * (1.0 / p.eye_width)
    bow = 1.0 - np.square(along)

    squint = 1.0 - 0.35 * max(conditions.smile, 0.0)
    opened = 1.0 - conditions.blink
    upper = p.eye_upper * opened * (1.0 + 0.12 * conditions.brow)
    lower = p.eye_lower * (0.35 + 0.65 * opened) * squint
    lid = y + bow * (upper * (1.0 + p.eye_skew * along)) - lower * conditions.blink
    below = bow * lower - y
    inside = coverage(np.minimum(lid, below), sharp)

    gaze_x = side * conditions.gaze[0]
    center_y = -0.5 * (p.eye_upper - p.eye_lower) + conditions.gaze[1]
    round_eye = np.sqrt(np.square(x - gaze_x) + np.square(y - center_y))
    # The white darkens under the upper lid and towards the corners.
    shade = (0.5 + 0.5 * np.clip(lid * 0.55, 0.0, 1.0)) * (0.55 + 0.45 * np.clip(bow * 2, 0.0, 1.0))
    ball = _SCLERA[:, None, None] * shade
    radius = p.iris_radius
    iris = coverage(radius - round_eye, 0.8 * sharp)
    glow = 0.55 + 0.75 * np.clip((y - center_y) * (0.5 / radius) + 0.35, 0.0, 1.0)
    limbus = 1.0 - 0.65 * np.clip(round_eye - (radius - 1.2), 0.0, 1.0)
    paint(ball, person.iris[:, None, None] * (glow * limbus * shade), iris)
    pupil = coverage(0.42 * radius - round_eye, 0.8 * sharp)
    ball *= 1.0 - 0.95 * pupil
    spark_x = gaze_x + side * (conditions.light[0] * 1.5)
    spark_y = center_y + conditions.light[1] * 1.7 - 0.3
    ball += 0.8 * bell(x - spark_x, 1.6) * bell(y - spark_y, 1.6)

    # Lashes, crease of the lid and lower rim go below or beside the eyeball.
    reach = np.clip((1.12 - np.abs(along)) * 6, 0.0, 1.0)
    crease_gap = lid + (p.lid_crease + 0.6) + 0.5 * along
    crease = bell(crease_gap, 1.3) * np.clip((1.2 - np.abs(along)) * 4, 0.0, 1.0)
    fold = np.clip(0.28 + 0.22 * p.lid_crease, 0.0, 0.75)
    target *= 1.0 - fold * crease
    rim = bell(below - 0.1, 1.4) * reach
    target *= 1.0 - 0.35 * rim
    paint(target, ball, inside)
    thick = 0.75 + 0.35 * p.lash + 0.3 * conditions.lipstick
    outer = thick * (0.85 + 0.3 * along)
    lash = coverage(outer - np.abs(lid + 0.3), 0.9 * sharp) * reach
    lash *= 0.55 + 0.35 * min(p.lash, 1.0)
    paint(target, person.brow * 0.25, lash)

    # The brow: an arch that tapers outwards, with hairs from the shared texture.
    base = -p.brow_height - 1.4 * conditions.brow - 0.5 * p.lid_crease
    t = (across + (p.brow_length - 1.5)) * (0.5 / p.brow_length)
    arch = (
        base
        + 0.6
        - (4.0 * p.brow_arch) * t * (1.25 - t)
        + (14.0 * p.brow_tilt * -1.0 + 2.0 * max(-conditions.brow, 0.0)) * (t - 0.5)
    )
    half = p.brow_thickness * (1.35 - 0.9 * t)
    ends = np.clip(t * 7, 0.0, 1.0) * np.clip((1.02 - t) * 6, 0.0, 1.0)
    mask = coverage(half - np.abs(down - arch), 0.45 * sharp) * ends
    hairs = texture(view.size)[rows, columns]
    mask *= np.clip(p.brow_density + 0.16 * hairs, 0.0, 1.0)
    paint(target, person.brow, mask)


def paint_mouth(albedo: Floats, person: Person, conditions: Conditions, view: View) -> None:
    """Paint lips, and teeth and the dark behind them when the mouth is open."""
    p, smile, sharp = person, conditions.smile, view.scale
    wide = p.mouth_width * (1.0 + 0.14 * smile - 0.08 * conditions.open)
    drop = 8.0 * conditions.open
    low, high = p.mouth + 7 + drop, p.mouth - 7
    corners = [(-wide - 1, p.mouth - 6), (wide + 1, p.mouth - 6), (0.0, low), (0.0, high)]
    rows, columns = view.crop(corners, 1.5)
    target = albedo[:, rows, columns]
    along = view.u[rows, columns] * (1.0 / wide)
    y = view.v[rows, columns] - p.mouth
    square = np.square(along)
    bow = 1.0 - square
    arch = np.sqrt(np.maximum(bow, 0.0)) * bow.clip(-1.0, None)
    lift = 3.0 * smile - 0.6 * p.mouth_droop
    seam = 0.3 * lift - lift * square
    seam = seam + 0.5 * bell(along, 22.0)
    top = seam - arch * (0.25 * drop)
    bottom = seam + arch * (0.75 * drop)
    cupid = 1.0 - p.cupid * bell(along, 30.0)
    thin = 1.0 - 0.16 * max(smile, 0.0) - 0.1 * conditions.open
    over = top - (bow * (p.lip_upper * thin)) * cupid
    under = bottom + np.maximum(arch, bow) * (p.lip_lower * thin)
    inside = coverage(np.minimum(y - over, under - y), 0.75 * sharp)

    color = person.lips + (conditions.lipstick_color - person.lips) * conditions.lipstick
    upper_lip = coverage(seam - y, 0.6 * sharp)
    tone = 1.08 - 0.3 * upper_lip
    gleam = y - (bottom + 0.45 * p.lip_lower)
    tone += 0.22 * bell(gleam, 0.8) * bell(along, 5.0)
    paint(target, color[:, None, None] * tone, 0.88 * inside)
    seam_line = bell(y - top, 1.6) * np.clip((1.06 - np.abs(along)) * 8, 0.0, 1.0)
    target *= 1.0 - 0.66 * seam_line
    if drop > 0.3:
        gap = coverage(np.minimum(y - top, bottom - y), sharp)
        teeth = coverage(top + (0.8 + 0.34 * drop) + 1.0 * bow - y, sharp)
        paint(target, _MOUTH, gap)
        shade = 0.35 + 0.6 * np.clip(bow, 0.0, 1.0)
        paint(target, _TEETH[:, None, None] * shade, gap * teeth)


def paint_nostrils(albedo: Floats, person: Person, view: View) -> None:
    """Paint the nostrils, softly."""
    p = person
    height = p.nose_tip + 4.0
    place = 0.46 * p.nose_width
    rows, columns = view.crop([(-p.nose_width, height), (p.nose_width, height)], 4.0)
    target = albedo[:, rows, columns]
    across = np.abs(view.u[rows, columns]) - place
    down = view.v[rows, columns] - height - 0.2 * across
    hole = np.square(across * (1.0 / (0.24 * p.nose_width)))
    hole = hole + np.square(down * (1.0 / (0.75 + 0.45 * p.nostril)))
    target *= 1.0 - 0.62 * bell(hole, 1.1)


# What a person wears, and what gets in the way of the camera.


def paint_glasses(albedo: Floats, person: Person, conditions: Conditions, view: View) -> None:
    """Paint a pair of glasses; style 2 are sunglasses."""
    style = conditions.style
    rows, columns = view.crop([(-40.0, -30.0), (40.0, -30.0), (0.0, -3.0)], 1.0)
    target = albedo[:, rows, columns]
    u, sharp = np.abs(view.u[rows, columns]), view.scale
    v = view.v[rows, columns] + 17.2
    half_wide, half_high = 11.0 + 2.5 * style[0], 7.2 + 3.3 * style[1]
    round_by = min(half_high - 0.5, 3.0 + 7.0 * style[2])
    center = max(person.eye_spacing + 0.6, half_wide + 2.3)
    # Signed distance to a rounded box, mirrored.
    box_u = np.abs(u - center) - (half_wide - round_by)
    box_v = np.abs(v) - (half_high - round_by)
    outside = np.sqrt(np.square(np.maximum(box_u, 0.0)) + np.square(np.maximum(box_v, 0.0)))
    distance = outside + np.minimum(np.maximum(box_u, box_v), 0.0) - round_by
    thick = 0.45 + 0.85 * style[3] ** 2
    rim = coverage(thick - np.abs(distance), sharp)
    bridge = coverage(thick - np.abs(v + 2.0), sharp)
    bridge *= coverage(center - half_wide - u, sharp)
    temple = coverage(0.9 - np.abs(v + 3.0), sharp)
    temple *= coverage(u - (center + half_wide), sharp)
    lens = coverage(-distance, sharp)
    if conditions.glasses == 2:
        tint = conditions.frame_color * 0.35
        paint(target, tint, lens * (0.86 + 0.1 * style[0]))
    else:
        target *= 1.0 - 0.08 * lens
    glare = u * 0.6 + v - (center * 0.6 - 4.0 + 8.0 * style[1])
    target += lens * bell(glare, 0.12) * (0.16 * style[2] * conditions.key)
    paint(target, conditions.frame_color, np.maximum(np.maximum(rim, bridge), temple))


def paint_hat(
    albedo: Floats, alpha: Floats, edge: Floats, conditions: Conditions, view: View
) -> None:
    """Paint a cap (1) or a knitted hat (2); `edge` is the distance inside the hair's outline."""
    style, sharp = conditions.style, view.scale
    line = (
        view.v
        + (39.0 - 5.0 * style[0])
        - np.square(view.u) * (0.006 if conditions.hat == 1 else 0.002)
    )
    above = coverage(-line, sharp)
    mask = above * coverage(edge + 5.0, sharp)
    if conditions.hat == 1:
        fabric = 0.85 + 0.05 * texture(view.size)[: view.size, : view.size]
        band = np.clip(line * 0.12 + 1.0, 0.0, 1.0)
        fabric = fabric * (1.0 - 0.45 * np.square(band))
    else:
        ribs = np.cos(view.u * (1.5 + style[1]))
        fabric = 0.85 + 0.14 * ribs
        turn_up = coverage(line + 11.0, sharp)
        fabric = fabric * (1.0 - 0.25 * turn_up)
    shadow = np.clip(1.0 - np.abs(line) * 0.14, 0.0, 1.0)
    albedo *= 1.0 - 0.4 * shadow
    paint(albedo, conditions.item_color[:, None, None] * fabric, mask)
    np.maximum(alpha, mask, out=alpha)


def paint_scarf(
    albedo: Floats, alpha: Floats, inside: Floats, conditions: Conditions, view: View
) -> None:
    """Paint a face mask (1) or a scarf (2); `inside` is the distance inside the head."""
    style, sharp = conditions.style, view.scale
    folds = texture(view.size)[view.size :, : view.size]
    if conditions.scarf == 1:
        line = view.v + (2.0 - 3.0 * style[0]) - np.square(view.u) * 0.009
        mask = coverage(line, sharp) * coverage(inside + 0.8, sharp)
        pleats = np.cos(view.v * 0.9)
        fabric = 0.9 + 0.06 * pleats
    else:
        line = view.v - (14.0 + 8.0 * style[0]) + np.square(view.u) * 0.004
        mask = coverage(line, sharp)
        waves = np.cos(line * 0.55 + folds * 0.8)
        fabric = 0.75 + 0.22 * waves
    color = conditions.item_color[:, None, None] * (fabric + 0.03 * folds)
    paint(albedo, color, mask)
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
        along = (view.u - root[0]) * du
        along = along + (view.v - root[1]) * dv
        along = np.clip(along * (1.0 / (du * du + dv * dv)), 0.0, 1.0)
        off = np.sqrt(
            np.square(view.u - root[0] - along * du) + np.square(view.v - root[1] - along * dv)
        )
        inside = 3.9 - off
        mask = coverage(inside, sharp)
        tone = 0.5 + 0.5 * np.clip(inside * 0.4, 0.0, 1.0)
        paint(albedo, person.skin[:, None, None] * tone, mask)
        np.maximum(alpha, mask, out=alpha)
