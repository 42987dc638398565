"""A machined hexagon nut on a rubber belt, seen from above, lit softly from the upper left."""

from dataclasses import dataclass

import cv2
import numpy as np

from realnet.datasets.demo import canvas
from realnet.datasets.demo.canvas import Array, Defect, DefectInstance, Frame, coverage, ramp

DEFECTS = {
    "chip": Defect("a piece has broken off a corner and left a coarse fracture", "standard"),
    "crack": Defect("a branching crack from the bore to the flank", "standard"),
    "deep_flat": Defect("one side is milled too deep", "hard", largest=0.08),
    "dent": Defect("a blow has pressed a pit into the face", "standard"),
    "missing_chamfer": Defect("the bore is not countersunk", "hard", closing=2.0, clear=0.06),
    "pore": Defect("a pinhole in the face", "hard", smallest=0.00024, largest=0.0008, speck=4),
    "rust": Defect("corrosion has begun in spots near an edge", "standard"),
    "scratch": Defect("a sharp edge has ploughed a groove across the face", "standard"),
    "shifted_hole": Defect("the bore is drilled off centre", "standard", largest=0.14),
    "smudge": Defect("a thin film of oil on the face", "hard", visible=0.008, clear=0.018),
}

APOTHEM = 44.0  # half of the distance across flats, u
BORE = 19.5  # radius at the mouth of the thread
CHAMFER = 4.0  # width of the countersink
THREAD = 4.6  # depth of the thread
TOP = 9.0  # height of the face above the belt
STEEL = (0.34, 0.35, 0.36)


@dataclass
class _Body:
    """State of the nut that a defect may change before lighting."""

    x: Array  # coordinates rotated with the nut, its centre at the origin
    y: Array
    outline: Array  # distance to the hexagon
    bore_x: float
    bore_y: float
    relief: Array  # added to the height, u
    albedo: Array  # factor on the metal's colour
    polish: Array  # 1 machined, 0 matt
    stain: Array  # opacity of the film over the metal
    stain_colour: Array
    fracture: Array  # 0..1, broken surface
    chamfer: float = CHAMFER


@dataclass(frozen=True)
class Scene:
    """What one image shows without a defect."""

    light: canvas.Light
    grain: Array
    cloud: Array
    rings: Array
    belt: Array
    x: Array  # coordinates rotated with the nut, its centre at the origin
    y: Array
    outline: Array
    bore_x: float
    bore_y: float


def sample_scene(frame: Frame, rng: np.random.Generator) -> Scene:
    """A random scene: pose, light, grain."""
    angle, cx, cy = rng.uniform(-6, 6), *(64 + rng.uniform(-2, 2, 2))
    light = canvas.make_light(rng, azimuth=-128, elevation=48, jitter=0.06)
    grain = canvas.grain(rng, frame, blur=0.35)
    cloud = canvas.smooth_noise(rng, frame, 26)
    rings = rng.standard_normal(256, dtype=np.float32)
    belt_grain = canvas.grain(rng, frame, blur=0.4)
    belt_phase = rng.uniform(0, 1, 2)

    x, y = canvas.rotate(frame.x - np.float32(cx), frame.y - np.float32(cy), angle)
    bore_x, bore_y = rng.uniform(-0.25, 0.25, 2)
    belt = _belt(frame, belt_grain, belt_phase)
    return Scene(light, grain, cloud, rings, belt, x, y, _hexagon(x, y), bore_x, bore_y)


def paint(frame: Frame, scene: Scene, defect: DefectInstance | None = None) -> Array:
    """The scene in linear light, ``[S, S, 3]``."""
    x, y, light, grain, belt = scene.x, scene.y, scene.light, scene.grain, scene.belt
    body = _Body(
        x=x,
        y=y,
        outline=scene.outline,
        bore_x=scene.bore_x,
        bore_y=scene.bore_y,
        relief=np.zeros_like(x),
        albedo=np.ones_like(x),
        polish=np.ones_like(x),
        stain=np.zeros_like(x),
        stain_colour=np.zeros((*x.shape, 3), np.float32),
        fracture=np.zeros_like(x),
    )
    if defect:
        _DAMAGE[defect.type](body, frame, defect.rng, grain)

    solid = coverage(body.outline)
    bx, by = x - np.float32(body.bore_x), y - np.float32(body.bore_y)
    r = np.hypot(bx, by)
    hole = coverage(r - (BORE - THREAD))
    blocked = canvas.shadow(solid * (1 - hole), frame, light, TOP, 2.6)
    contact = cv2.GaussianBlur(solid, (0, 0), 3.0 / frame.pitch)
    ground = belt * (light.strength * (1 - 0.72 * blocked) * (1 - 0.35 * contact))[..., None]
    # Only a little light reaches the belt through the bore.
    depth = 0.18 + 0.22 * ramp(-(bx * light.x + by * light.y) / BORE, -0.2, 1.0)
    ground = ground + (belt * depth[..., None] - ground) * coverage(r - BORE)[..., None]

    metal = _metal(body, frame, light, grain, scene.cloud, scene.rings, r, bx, by)
    return canvas.over(ground, metal, solid * (1 - hole))


def _hexagon(x: Array, y: Array) -> Array:
    """Distance to the outline; corners rounded by a high-order norm."""
    across = [np.abs(x * np.cos(a) + y * np.sin(a)) for a in np.radians((30, 90, 150))]
    stacked = np.stack(across).astype(np.float32)
    peak = stacked.max(axis=0)
    rounded = peak * np.power(np.power(stacked / np.maximum(peak, 1), 48).sum(axis=0), 1 / 48)
    return (rounded - APOTHEM).astype(np.float32)


def _belt(frame: Frame, grain: Array, phase: Array) -> Array:
    """Dark rubber with a faint moulded pattern."""
    pattern = np.sin(2 * np.pi * (frame.x / 6.4 + phase[0] * 0.15))
    pattern = pattern * np.sin(2 * np.pi * (frame.y / 6.4 + phase[1] * 0.15))
    shade = 1 + 0.07 * pattern + 0.06 * grain
    return canvas.tint((0.052, 0.056, 0.060), shade.astype(np.float32))


def _metal(
    body: _Body,
    frame: Frame,
    light,
    grain: Array,
    cloud: Array,
    rings: Array,
    r: Array,
    bx: Array,
    by: Array,
) -> Array:
    """The lit metal: machined face, chamfers, thread."""
    centre = np.hypot(body.x, body.y)
    height = TOP - 0.62 * np.maximum(centre - APOTHEM * 0.985, 0)  # the corners' conical chamfer
    height = height - 0.9 * np.maximum(BORE + body.chamfer - r, 0)
    inside = np.maximum(BORE - r, 0)
    turn = np.arctan2(by, bx) / (2 * np.pi)
    height = height - 1.6 * inside
    height = height + 0.55 * np.sin(2 * np.pi * (inside / 2.6 + turn)) * (inside > 0)
    height = (height + body.relief).astype(np.float32)
    n = canvas.normals(height, frame)

    # Turning marks: fine rings around the axis that also stretch highlights across the rings.
    mark = np.interp(centre * 3.2, np.arange(256), rings).astype(np.float32)
    face = ramp(r, BORE + body.chamfer - 0.4, BORE + body.chamfer + 0.6) * body.polish
    unit = np.maximum(centre, 1)
    tx, ty = -body.y / unit, body.x / unit
    half = np.array([light.x, light.y, light.z + 1], np.float32)
    half /= np.linalg.norm(half)
    # `n` is in image coordinates, the marks in those of the nut: a few degrees are not visible.
    off = tx * half[0] + ty * half[1]
    sheen = np.exp(-(off**2) / (2 * 0.13**2)) * np.clip(n[2] * 3 - 2, 0, 1)
    shade = canvas.diffuse(n, light) * (1 + (0.045 * mark + 0.015 * cloud) * face + 0.03 * grain)
    shade = shade * (1 - 0.55 * ramp(inside, 0, THREAD)) * body.albedo
    shine = canvas.gloss(n, light, 26) * (0.30 * body.polish + 0.04)
    shine = shine + 0.30 * light.strength * sheen * face * (1 + 0.12 * mark)
    shine = shine * (1 - 0.6 * ramp(inside, 0, THREAD))
    rough = canvas.tint((0.50, 0.50, 0.49), canvas.diffuse(n, light) * (1 + 0.16 * grain) * 0.62)
    colour = canvas.tint(STEEL, shade) + shine[..., None] * body.albedo[..., None] * 0.8
    colour = canvas.over(colour, rough, body.fracture)
    film = body.stain_colour * canvas.diffuse(n, light)[..., None]
    return canvas.over(colour, film, body.stain).astype(np.float32)


# --- defects --------------------------------------------------------------------------------------


def _place(body: _Body, frame: Frame, points: Array) -> Array:
    """Points from the nut's coordinates to the image's."""
    # Invert the rotation with the gradients of the coordinate fields.
    mid = frame.pixels // 2
    ex = (body.x[mid, mid + 1] - body.x[mid, mid]) / frame.pitch
    ey = (body.y[mid, mid + 1] - body.y[mid, mid]) / frame.pitch
    ox, oy = body.x[mid, mid], body.y[mid, mid]
    dx, dy = points[:, 0] - ox, points[:, 1] - oy
    at = frame.x[mid, mid], frame.y[mid, mid]
    return np.stack([at[0] + dx * ex + dy * ey, at[1] - dx * ey + dy * ex], axis=1)


def _polar(radius, angle) -> Array:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


def _scratch(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    start, sweep = draw.uniform(0, 2 * np.pi), draw.choice([-1, 1]) * draw.uniform(0.55, 1.0)
    inner, outer = draw.uniform(25.5, 29), draw.uniform(37, 42)
    t = np.linspace(0, 1, 9)
    bend = draw.uniform(-2.5, 2.5) * np.sin(np.pi * t)
    points = _polar(inner + (outer - inner) * t + bend, start + sweep * t)
    half = draw.uniform(0.85, 1.25) * (0.55 + 0.45 * np.sin(np.pi * np.clip(t * 0.9 + 0.08, 0, 1)))
    d, along = canvas.stroke(frame, _place(body, frame, points), half)
    core = coverage(d, 0.9) * (0.93 + 0.05 * np.sin(along * 23) + 0.05 * grain)
    burr = coverage(np.abs(d - 0.7) - 0.45, 0.8)
    body.relief += -1.1 * core + 0.45 * burr
    body.albedo *= 1 + (draw.choice([1.7, 1.1, -0.62]) * core)
    body.polish *= 1 - 0.75 * core


def _crack(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    angle = draw.uniform(0, 2 * np.pi)
    reach = draw.uniform(0.72, 1.05)
    count = 7
    radius = np.linspace(BORE + 1.5, BORE + 1.5 + (APOTHEM - BORE) * reach, count)
    wander = np.cumsum(draw.normal(0, 1.7, count)) + draw.uniform(-0.7, 0.7, count)
    points = _polar(radius, angle + wander / radius)
    width = np.linspace(draw.uniform(1.15, 1.5), 0.55, count) * draw.uniform(0.8, 1.2, count)
    d, _ = canvas.stroke(frame, _place(body, frame, points), width)
    fork = int(draw.integers(2, 5))
    side = draw.choice([-1, 1]) * draw.uniform(0.5, 0.9)
    heading = angle + side
    steps = np.cumsum(draw.uniform(1.8, 2.8, 5))[:, None]
    turns = heading + draw.normal(0, 0.3, 5)
    branch = points[fork] + np.concatenate([[[0, 0]], steps * _polar(1.0, turns)])
    d2, _ = canvas.stroke(frame, _place(body, frame, branch), np.linspace(0.85, 0.4, 6))
    line = coverage(np.minimum(d, d2), 0.8)
    body.relief -= 0.9 * coverage(np.minimum(d, d2) - 0.2, 1.2)
    body.albedo *= 1 - 0.9 * line
    body.polish *= 1 - line


def _chip(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    corner = np.radians(60 * draw.integers(0, 6)) + draw.uniform(-0.12, 0.12)
    reach = draw.uniform(8.5, 13.5)  # depth of the fracture at the corner
    tip = APOTHEM / np.cos(np.radians(30))
    along = np.linspace(-1, 1, 8)
    depth = tip - reach * (1 - 0.35 * along**2) + draw.normal(0, 0.9, 8)
    spread = along * draw.uniform(9, 14)
    inner = np.stack([depth, spread], axis=1)
    ring = np.concatenate([inner, [[tip + 16, spread[-1] + 5], [tip + 16, spread[0] - 5]]])
    c, s = np.cos(corner), np.sin(corner)
    ring = np.stack([ring[:, 0] * c - ring[:, 1] * s, ring[:, 0] * s + ring[:, 1] * c], axis=1)
    d = canvas.polygon(frame, _place(body, frame, ring))
    facets = np.sin(body.x * 1.1 + 1.7 * np.sin(body.y * 0.6)) * np.sin(body.y * 1.3)
    broken = np.maximum(-d, 0)
    body.fracture = np.maximum(body.fracture, coverage(d, 0.8))
    body.relief += (-0.75 * broken + 0.35 * facets * coverage(d)).astype(np.float32)
    body.relief += 0.22 * grain * coverage(d)
    body.outline = np.maximum(body.outline, -(d + draw.uniform(3.0, 5.0)) + 0.25 * facets)


def _rust(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    angle = draw.uniform(0, 2 * np.pi)
    radius = draw.choice([BORE + CHAMFER + 2, APOTHEM - 5]) + draw.uniform(-1, 1)
    count = int(draw.integers(30, 55))
    spread = draw.uniform(3.0, 5.0)
    bare = np.ones_like(body.x)
    halo = np.ones_like(body.x)
    for _ in range(count):
        rr = radius + draw.normal(0, spread * 0.6)
        aa = angle + draw.normal(0, spread * 1.5) / radius
        size = draw.uniform(0.5, 1.9)
        d = np.hypot(body.x - rr * np.cos(aa), body.y - rr * np.sin(aa)) - size
        bare *= 1 - 0.8 * coverage(d, 1.3)
        halo *= 1 - 0.10 * coverage(d - 1.5, 4.0)
    strength = draw.uniform(0.7, 1.0)
    pits = (1 - bare) * strength
    dark = np.clip(pits + 0.18 * grain * pits, 0, 1)[..., None]
    young = np.array([0.26, 0.105, 0.035], np.float32)
    old = np.array([0.115, 0.042, 0.018], np.float32)
    body.stain_colour = (young + (old - young) * dark).astype(np.float32)
    body.stain = np.clip(0.9 * pits + 0.5 * (1 - halo) * strength, 0, 0.95).astype(np.float32)
    body.relief += (0.25 * pits * (1 + 0.8 * grain)).astype(np.float32)


def _dent(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    angle, radius = draw.uniform(0, 2 * np.pi), draw.uniform(30.5, 36.5)
    size, squash = draw.uniform(4.2, 6.6), draw.uniform(0.65, 0.95)
    centre = _polar(radius, angle)
    dx, dy = canvas.rotate(body.x - centre[0], body.y - centre[1], draw.uniform(0, 180))
    d = np.hypot(dx, dy / squash) / size
    pit = np.square(np.clip(1 - d * d, 0, 1))
    rim = np.exp(-np.square((d - 1.08) / 0.16))
    body.relief += (-draw.uniform(2.2, 3.2) * pit + 0.38 * rim).astype(np.float32)
    body.polish *= 1 - 0.7 * coverage(d - 1, 0.3)
    body.albedo *= 1 - 0.14 * pit


def _shifted_hole(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    angle, distance = draw.uniform(0, 2 * np.pi), draw.uniform(4.5, 7.5)
    body.bore_x += distance * np.cos(angle)
    body.bore_y += distance * np.sin(angle)


def _pore(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    at = _polar(draw.uniform(28, 39), draw.uniform(0, 2 * np.pi))
    d = np.hypot(body.x - at[0], body.y - at[1]) - draw.uniform(0.8, 1.25)
    pit = coverage(d, 0.7)
    body.relief -= 1.2 * pit
    body.albedo *= 1 - 0.85 * pit
    body.polish *= 1 - pit


def _missing_chamfer(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    body.chamfer = 0.0


def _smudge(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    at = _polar(draw.uniform(30, 36), draw.uniform(0, 2 * np.pi))
    size = draw.uniform(5.0, 8.0)
    drops = _place(body, frame, at + draw.normal(0, size * 0.6, (4, 2)))
    d = canvas.puddle(frame, drops, size * draw.uniform(0.5, 0.9, 4), merge=2.0)
    film = draw.uniform(0.10, 0.14) * coverage(d, 1.6)
    body.albedo *= 1 - film


def _deep_flat(body: _Body, frame: Frame, draw: np.random.Generator, grain: Array) -> None:
    side = np.radians(30 + 60 * draw.integers(6))
    across = body.x * np.cos(side) + body.y * np.sin(side)
    deeper = APOTHEM - draw.uniform(2.2, 3.4)
    body.outline = np.maximum(body.outline, (across - deeper).astype(np.float32))


_DAMAGE = {
    "chip": _chip,
    "crack": _crack,
    "deep_flat": _deep_flat,
    "dent": _dent,
    "missing_chamfer": _missing_chamfer,
    "pore": _pore,
    "rust": _rust,
    "scratch": _scratch,
    "shifted_hole": _shifted_hole,
    "smudge": _smudge,
}
