"""A plain-woven technical fabric, one field of view of a web, lit at an angle."""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from realnet.datasets.demo import canvas
from realnet.datasets.demo.canvas import Array, Defect, DefectInstance, Frame, coverage, ramp

DEFECTS = {
    "colour_thread": Defect("a yarn of another dye lot was woven in", "standard", largest=0.08),
    "cut": Defect("a blade has slit the fabric, the edges fray", "standard"),
    "doubled_thread": Defect(
        "two thin yarns run in the place of one", "hard", largest=0.08, closing=2.0, clear=0.06
    ),
    "faint_stain": Defect("water has dried on the web", "hard", visible=0.008, clear=0.018),
    "fleck": Defect(
        "a speck of tar sticks to a yarn", "hard", smallest=0.00024, largest=0.0008, speck=4
    ),
    "fold": Defect("a crease has set in the web", "standard", largest=0.10),
    "hole": Defect("yarns are torn away", "standard"),
    "missing_thread": Defect(
        "a yarn has run out: its place is empty", "standard", largest=0.08, closing=4.0
    ),
    "skipped_crossing": Defect(
        "a yarn passes over three others instead of one (a float)", "hard", closing=3.0
    ),
    "stain": Defect("oil has dripped onto the web", "standard"),
}

PITCH = 12.8  # distance of neighbouring yarns in u: ten per direction in the field
YARNS = 14  # yarns per direction, including some outside the field
RADIUS = 3.4  # height of a yarn's cross-section
WAVE = 2.0  # amplitude of a yarn over its neighbours
WARP = (0.46, 0.41, 0.32)  # ecru
WEFT = (0.33, 0.335, 0.31)  # a greyer, thinner yarn


@dataclass
class _Cloth:
    """State of the fabric that a defect may change before lighting."""

    x: Array  # coordinates in the cloth: displacing them moves yarns
    y: Array
    warp_gone: Array  # 0..1, where a warp (weft) yarn is missing
    weft_gone: Array
    relief: Array  # height added to the whole cloth, u
    stain: Array  # factor on the colour, [S, S, 3]
    dye: list[tuple[str, int, Array, Array]] = field(
        default_factory=list
    )  # (set, yarn, rgb, where)
    fibres: list[tuple[Array, tuple[float, ...]]] = field(default_factory=list)
    doubled: dict[str, Array] = field(default_factory=dict)  # set -> 0..1, where two yarns run
    skipped: tuple[int, int] | None = None  # warp and weft that cross the wrong way round
    slack: Array | None = None  # 0..1: yarns are straight there, without a crossing yarn


@dataclass(frozen=True)
class Scene:
    """What one image shows without a defect; pairs are of warp and weft."""

    light: canvas.Light
    grain: Array
    x: Array  # coordinates in the cloth
    y: Array
    shade: list[Array]  # factors on the colour and the width of each yarn
    thick: list[Array]
    twist: list[Array]  # phase of the fibres


def sample_scene(frame: Frame, rng: np.random.Generator) -> Scene:
    """A random scene: phase, light, yarns."""
    light = canvas.make_light(rng, azimuth=-60, elevation=42, jitter=0.05)
    phase = rng.uniform(-0.09, 0.09, 2) * PITCH
    sway = [0.35 * canvas.smooth_noise(rng, frame, 40) for _ in range(2)]
    grain = canvas.grain(rng, frame, blur=0.3)
    shade = [rng.normal(1, 0.025, YARNS).astype(np.float32) for _ in range(2)]
    thick = [rng.normal(1, 0.018, YARNS).astype(np.float32) for _ in range(2)]
    twist = [rng.uniform(0, 2 * np.pi, YARNS).astype(np.float32) for _ in range(2)]

    x = (frame.x + np.float32(phase[0]) + sway[0]).astype(np.float32)
    y = (frame.y + np.float32(phase[1]) + sway[1]).astype(np.float32)
    return Scene(light, grain, x, y, shade, thick, twist)


def paint(frame: Frame, scene: Scene, defect: DefectInstance | None = None) -> Array:
    """The scene in linear light, ``[S, S, 3]``."""
    light, grain, shade = scene.light, scene.grain, scene.shade
    thick, twist = scene.thick, scene.twist
    zero = np.zeros_like(frame.x)
    cloth = _Cloth(
        x=scene.x.copy(),
        y=scene.y.copy(),
        warp_gone=zero.copy(),
        weft_gone=zero.copy(),
        relief=zero.copy(),
        stain=np.ones((*zero.shape, 3), np.float32),
    )
    if defect:
        _DAMAGE[defect.type](cloth, frame, defect.rng)

    i, s = _yarn(cloth.x)
    j, t = _yarn(cloth.y)
    warp_up = np.where((i + j) % 2 == 0, 1, -1).astype(np.float32)
    bend = WAVE if cloth.slack is None else WAVE * (1 - 0.75 * cloth.slack)
    if cloth.skipped:
        warp_up = np.where((i == cloth.skipped[0]) & (j == cloth.skipped[1]), -warp_up, warp_up)
    warp = _profile(s, 0.93 * thick[0][i]) + bend * warp_up * np.cos(np.pi * t)
    weft = _profile(t, 0.86 * thick[1][j]) - bend * warp_up * np.cos(np.pi * s)
    if "warp" in cloth.doubled:
        warp += cloth.doubled["warp"] * (_pair(s) - _profile(s, 0.93 * thick[0][i]))
    if "weft" in cloth.doubled:
        weft += cloth.doubled["weft"] * (_pair(t) - _profile(t, 0.86 * thick[1][j]))
    warp = warp - 30 * cloth.warp_gone
    weft = weft - 30 * cloth.weft_gone
    floor = np.float32(-6.0)
    top = np.maximum(np.maximum(warp, weft), floor)
    is_warp = coverage(weft - warp, 0.5)
    bare = coverage(np.maximum(warp, weft) - floor - 0.6, 1.0)

    # Twisted fibres run across the yarn at an angle.
    a = np.sin(2 * np.pi * (cloth.y / 3.3 + s * 1.5) + twist[0][i])
    b = np.sin(2 * np.pi * (cloth.x / 3.3 + t * 1.4) + twist[1][j])
    ply = a * is_warp + b * (1 - is_warp)
    height = (top + 0.16 * ply * (1 - bare) + cloth.relief).astype(np.float32)
    n = canvas.normals(cv2.GaussianBlur(height, (0, 0), 0.45 / frame.pitch), frame)

    colour_warp = canvas.tint(WARP, shade[0][i])
    colour_weft = canvas.tint(WEFT, shade[1][j])
    for which, yarn, rgb, where in cloth.dye:
        if which == "warp":
            colour_warp = canvas.over(colour_warp, rgb, where * (i == yarn))
        else:
            colour_weft = canvas.over(colour_weft, rgb, where * (j == yarn))
    colour = canvas.over(colour_weft, colour_warp, is_warp)
    open_sky = 0.30 + 0.70 * ramp(top, -3.0, 4.2)  # hollows between yarns are in their shade
    lit = canvas.diffuse(n, light) * open_sky * (1 + 0.05 * grain + 0.05 * ply)
    cloth_colour = colour * lit[..., None] * cloth.stain
    cloth_colour += 0.03 * canvas.gloss(n, light, 14)[..., None] * cloth.stain
    backing = canvas.tint((0.018, 0.018, 0.020), 1 + 0.2 * grain)
    picture = canvas.over(cloth_colour, backing, bare)
    for points, fibre_rgb in cloth.fibres:
        half = np.linspace(0.75, 0.4, len(points))
        d, _ = canvas.stroke(frame, points, half)
        dark = canvas.shadow(coverage(d), frame, light, 1.6, 0.8)
        picture = picture * (1 - 0.5 * dark)[..., None]
        picture = canvas.over(picture, fibre_rgb, 0.9 * coverage(d, 0.9))
    return picture.astype(np.float32)


def _yarn(position: Array) -> tuple[Array, Array]:
    """Index of the yarn (clipped to the table) and position across it, -0.5..0.5."""
    cell = np.floor(position / np.float32(PITCH))
    inside = position / np.float32(PITCH) - cell - np.float32(0.5)
    return np.clip(cell.astype(np.int32) + 2, 0, YARNS - 1), inside.astype(np.float32)


def _profile(place: Array, width: Array | float) -> Array:
    """Height of a yarn's round surface; decreases steeply beside it."""
    q = 2 * place / width
    return RADIUS * np.sqrt(np.maximum(1 - q * q, 0)) - 9 * np.maximum(np.abs(q) - 1, 0)


def _pair(place: Array) -> Array:
    """Height of two thin yarns side by side; as :func:`_profile`."""
    return 0.8 * _profile(np.abs(place) - np.float32(0.235), 0.45)


# --- defects --------------------------------------------------------------------------------------


def _fray(cloth: _Cloth, frame: Frame, draw: np.random.Generator, d: Array, rough: float) -> None:
    """Remove the yarns inside ``d`` (distance, u); each yarn has its own end."""
    i, _ = _yarn(cloth.x)
    j, _ = _yarn(cloth.y)
    ends = draw.normal(0, rough, (2, YARNS)).astype(np.float32)
    wisp = 0.7 * np.sin(cloth.x * 2.1) * np.sin(cloth.y * 1.9)  # fibres of one yarn differ too
    cloth.warp_gone = np.maximum(cloth.warp_gone, coverage(d + ends[0][i] + wisp, 1.2))
    cloth.weft_gone = np.maximum(cloth.weft_gone, coverage(d + ends[1][j] - wisp, 1.2))


def _wisp(draw: np.random.Generator, at: Array, heading: float, length: float) -> Array:
    """A loose fibre: a curved polyline of six points."""
    turns = heading + np.cumsum(draw.normal(0, 0.35, 5))
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 5
    return np.concatenate([[at], at + np.cumsum(steps, axis=0)])


def _centre(draw: np.random.Generator, margin: float) -> Array:
    return draw.uniform(margin, canvas.FIELD - margin, 2)


def _hole(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    at, size = _centre(draw, 26), draw.uniform(6.0, 10.5)
    offsets = draw.normal(0, size * 0.35, (3, 2))
    d = canvas.puddle(frame, at + offsets, size * draw.uniform(0.5, 0.8, 3), merge=2.0)
    pull = np.exp(-np.square(np.maximum(d, 0) / 7)) * 0.9  # the edge is pulled apart
    away = np.hypot(frame.x - at[0], frame.y - at[1]) + 1e-3
    cloth.x += (-pull * (frame.x - at[0]) / away).astype(np.float32)
    cloth.y += (-pull * (frame.y - at[1]) / away).astype(np.float32)
    _fray(cloth, frame, draw, d, rough=1.3)
    for _ in range(int(draw.integers(2, 5))):
        a = draw.uniform(0, 2 * np.pi)
        edge = at + size * np.array([np.cos(a), np.sin(a)])
        rgb = tuple(0.8 * np.array(WARP if draw.random() < 0.5 else WEFT))
        cloth.fibres.append((_wisp(draw, edge, a + np.pi, draw.uniform(6, 11)), rgb))


def _cut(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    at, a = _centre(draw, 34), draw.uniform(0, np.pi)
    length = draw.uniform(13, 21)
    t = np.linspace(-1, 1, 9)
    way, across = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
    line = at + t[:, None] * length * way + (draw.uniform(-2, 2) * (1 - t * t))[:, None] * across
    gape = draw.uniform(1.5, 2.4)
    d, _ = canvas.stroke(frame, line, gape * np.sqrt(np.clip(1 - t * t, 0.02, 1)))
    side = (frame.x - at[0]) * across[0] + (frame.y - at[1]) * across[1]
    pull = 1.0 * np.exp(-np.square(np.maximum(d, 0) / 5)) * np.tanh(side / 1.5)
    cloth.x += (-pull * across[0]).astype(np.float32)
    cloth.y += (-pull * across[1]).astype(np.float32)
    _fray(cloth, frame, draw, d, rough=0.55)
    for _ in range(int(draw.integers(2, 4))):
        edge = at + draw.uniform(-0.7, 0.7) * length * way
        rgb = tuple(0.85 * np.array(WARP if draw.random() < 0.5 else WEFT))
        heading = a + draw.choice([-1, 1]) * np.pi / 2 + draw.normal(0, 0.4)
        cloth.fibres.append((_wisp(draw, edge, heading, draw.uniform(4, 7)), rgb))


def _stretch(
    along: np.ndarray, draw: np.random.Generator, lengths: tuple[float, float], edge: float
) -> np.ndarray:
    """1 over a random part of a yarn, 0 elsewhere; ``edge``: half the width of its soft ends."""
    length = draw.uniform(*lengths)
    start = draw.uniform(8, canvas.FIELD - 8 - length)
    end = start + length
    return ramp(along, start - edge, start + edge) * (1 - ramp(along, end - edge, end + edge))


def _missing_thread(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    yarn, along, across, gone = _pick(cloth, draw)
    span = _stretch(along, draw, (34, 62), 1.5)
    index, _ = _yarn(across)
    here = span * (index == yarn)
    if gone == "warp":
        cloth.warp_gone = np.maximum(cloth.warp_gone, here)
    else:
        cloth.weft_gone = np.maximum(cloth.weft_gone, here)
    middle = (yarn - 2 + 0.5) * PITCH
    away = across - middle
    # The neighbours move into the gap, and yarns that crossed the missing one are straight.
    closing = (1.3 * span * np.tanh(away / 4) * np.exp(-np.square(away / 9))).astype(np.float32)
    if gone == "warp":
        cloth.x += closing
    else:
        cloth.y += closing
    cloth.slack = (span * np.exp(-np.square(away / 8))).astype(np.float32)


def _doubled_thread(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    yarn, along, across, which = _pick(cloth, draw)
    span = _stretch(along, draw, (30, 56), 1)
    cloth.doubled[which] = span * (_yarn(across)[0] == yarn)


def _skipped_crossing(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    warp, weft = draw.integers(3, 11, 2)
    cloth.skipped = int(warp), int(weft)


def _fleck(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    at = _centre(draw, 8)
    d = np.hypot(frame.x - at[0], frame.y - at[1]) - draw.uniform(0.9, 1.3)
    cloth.stain *= 1 - 0.75 * coverage(d, 0.7)[..., None]


def _faint_stain(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    at, size = _centre(draw, 24), draw.uniform(6.5, 10.0)
    centres = at + draw.normal(0, size * 0.55, (4, 2))
    d = canvas.puddle(frame, centres, size * draw.uniform(0.5, 0.9, 4), merge=2.0)
    rim = 0.3 * np.exp(-np.square((d + 1.0) / 1.2))
    amount = draw.uniform(0.11, 0.15) * coverage(d, 1.6) * (0.85 + rim)
    cloth.stain *= 1 - amount[..., None] * np.array([0.9, 1.0, 1.1], np.float32)


def _colour_thread(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    yarn, along, _, which = _pick(cloth, draw)
    dyes = (
        [0.30, 0.055, 0.045],
        [0.05, 0.085, 0.22],
        [0.07, 0.07, 0.07],
        [0.42, 0.24, 0.06],
        [0.10, 0.20, 0.10],
        [0.62, 0.60, 0.56],
        [0.24, 0.17, 0.11],
    )
    rgb = np.array(dyes[draw.integers(len(dyes))], np.float32)
    where = np.ones_like(along)
    if draw.random() < 0.5:  # the wrong yarn starts at a knot
        start = draw.uniform(35, 93)
        where = ramp((along - start) * draw.choice([-1, 1]), -1, 1)
    cloth.dye.append((which, yarn, rgb, where.astype(np.float32)))


def _pick(cloth: _Cloth, draw: np.random.Generator) -> tuple[int, Array, Array, str]:
    """A yarn inside the field: its index, coordinates along and across it, and its set."""
    yarn = int(draw.integers(3, 11))
    if draw.random() < 0.5:
        return yarn, cloth.y, cloth.x.copy(), "warp"
    return yarn, cloth.x, cloth.y.copy(), "weft"


def _stain(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    at, count = _centre(draw, 24), int(draw.integers(3, 6))
    size = draw.uniform(6.5, 12.0)
    centres = at + draw.normal(0, size * 0.55, (count, 2))
    d = canvas.puddle(frame, centres, size * draw.uniform(0.45, 1.0, count), merge=1.8)
    # Oil spreads along the yarns.
    d = d + 0.9 * np.sin(cloth.x * 2 * np.pi / PITCH) * np.sin(cloth.y * 2 * np.pi / PITCH)
    tone = np.array([[0.42, 0.36, 0.27], [0.35, 0.35, 0.36], [0.62, 0.47, 0.25]], np.float32)
    absorbed = tone[draw.integers(3)] ** np.float32(draw.uniform(0.75, 1.15))
    rim = 0.45 * np.exp(-np.square((d + 0.9) / 1.3))
    amount = np.clip(coverage(d, 2.6) * (0.75 + rim), 0, 1)
    cloth.stain *= 1 - amount[..., None] * (1 - absorbed)


def _fold(cloth: _Cloth, frame: Frame, draw: np.random.Generator) -> None:
    at, a = _centre(draw, 38), draw.uniform(0, np.pi)
    length, width = draw.uniform(22, 34), draw.uniform(3.0, 4.6)
    across = np.array([-np.sin(a), np.cos(a)])
    p = (frame.x - at[0]) * np.cos(a) + (frame.y - at[1]) * np.sin(a)
    q = (frame.x - at[0]) * across[0] + (frame.y - at[1]) * across[1]
    q = q + draw.uniform(-3, 3) * np.square(p / length)
    reach = np.square(np.clip(1 - np.square(p / length), 0, 1))
    ridge = reach * np.exp(-np.square(q / width))
    pull = 1.1 * reach * (q / width) * np.exp(-np.square(q / width) / 1.5)
    cloth.x += (pull * across[0]).astype(np.float32)
    cloth.y += (pull * across[1]).astype(np.float32)
    cloth.relief += (draw.uniform(3.2, 5.0) * ridge).astype(np.float32)
    crest = reach * np.exp(-np.square(q / 0.9))
    cloth.stain *= (1 - 0.18 * crest)[..., None]  # abraded along the crest


_DAMAGE: dict[str, Callable[[_Cloth, Frame, np.random.Generator], None]] = {
    "colour_thread": _colour_thread,
    "cut": _cut,
    "doubled_thread": _doubled_thread,
    "faint_stain": _faint_stain,
    "fleck": _fleck,
    "fold": _fold,
    "hole": _hole,
    "missing_thread": _missing_thread,
    "skipped_crossing": _skipped_crossing,
    "stain": _stain,
}
