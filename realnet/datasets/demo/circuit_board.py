"""A populated circuit board in a fixture, seen from above."""

import copy
import dataclasses
import itertools
import math

import cv2
import numpy as np

from realnet.datasets.demo import canvas
from realnet.datasets.demo.canvas import Array, Defect, DefectInstance, Frame, coverage, ramp
from realnet.datasets.demo.circuit_parts import (
    INK,
    PARTS,
    SMALL,
    SOLDER,
    Part,
    Surface,
    draw_pads,
    draw_part,
    leads,
    lettering,
)

DEFECTS = {
    "burn": Defect("a part has overheated and scorched its surroundings", "standard"),
    "extra_part": Defect("a second chip sits where none belongs", "hard"),
    "flux_residue": Defect(
        "a thin film of flux is left on the solder mask", "hard", visible=0.008, clear=0.018
    ),
    "missing_part": Defect("a part was not placed", "standard"),
    "open_track": Defect(
        "a track is interrupted", "hard", smallest=0.0004, largest=0.002, speck=4, clear=0.06
    ),
    "scratch": Defect("the solder mask is scraped open", "standard"),
    "shifted_part": Defect("a part was placed askew, beside its pads", "standard"),
    "solder_ball": Defect(
        "a tiny ball of solder lies on the board", "hard", smallest=0.00024, largest=0.0008, speck=4
    ),
    "solder_bridge": Defect("solder joins neighbouring leads", "standard"),
    "wrong_part": Defect(
        "another part sits in the place, or a polar one the wrong way round", "standard"
    ),
}

MASK = (0.010, 0.070, 0.034)  # solder mask over laminate
MASK_ON_COPPER = (0.020, 0.125, 0.058)
COPPER = (0.52, 0.25, 0.12)
LAMINATE = (0.36, 0.33, 0.20)

# Copper tracks in u, at 0, 45 and 90 degrees.
TRACKS = (
    [(13, 15), (13, 8), (24, 8), (33, 17), (33, 28)],
    [(13, 29), (20, 33), (27, 33)],
    [(13, 47), (19, 41), (27, 41)],
    [(13, 51), (21, 51), (24, 48), (27, 48)],
    [(13, 65), (20, 58), (31, 58), (31, 60)],
    [(36, 28), (36, 14), (42, 8), (70, 8), (78, 16), (91, 16)],
    [(43, 28), (43, 18), (49, 12), (66, 12), (77, 23), (91, 23)],
    [(47, 28), (47, 21), (52, 16), (64, 16), (76, 28), (91, 28)],
    [(59, 33), (68, 33), (76, 41), (84, 41), (91, 34)],
    [(59, 44), (70, 44), (79, 53), (79, 57), (90, 64)],
    [(59, 51), (68, 51), (76, 59), (76, 62)],
    [(40, 60), (40, 68), (31, 77), (31, 84)],
    [(47, 60), (47, 70), (58, 81), (58, 84)],
    [(54, 60), (54, 66), (66, 78), (76, 78)],
    [(76, 92), (76, 98), (88, 98), (95, 98)],
    [(107, 98), (114, 98), (120, 92), (120, 70), (116, 64)],
    [(107, 88), (113, 84), (113, 78)],
    [(18, 90), (18, 98), (24, 104), (24, 110)],
    [(86, 111), (80, 111), (76, 107), (66, 107)],
    [(111, 17), (119, 17), (122, 20), (122, 48), (116, 54)],
    [(7, 6), (7, 70), (18, 74)],
    [(64, 94), (34, 94), (28, 100), (28, 104)],
    [(84, 88), (84, 76), (90, 72)],
)
VIAS: tuple[tuple[float, float], ...] = (
    (24, 8),
    (70, 8),
    (66, 12),
    (84, 41),
    (79, 57),
    (31, 72),
    (66, 78),
    (113, 78),
    (120, 80),
    (76, 98),
    (64, 94),
    (122, 34),
    (7, 50),
    (66, 100),
    (88, 50),
    (20, 64),
    (70, 26),
    (24, 18),
)
HOLES = ((119.5, 8.0, 4.2), (117.5, 117.5, 4.6), (7.0, 94.0, 3.2))
POUR = ((64, 64), (64, 58), (60, 84), (60, 100), (84, 104), (84, 128), (128, 128), (128, 104))
SILK = (
    *(("R1", 23.5, 19), ("R2", 22.6, 36.5), ("C2", 22.8, 62), ("C3", 67, 70), ("C4", 68, 89)),
    *(("U1", 25, 27), ("U2", 86, 11.5), ("C1", 118, 50), ("Y1", 29, 76.5), ("J1", 79, 118)),
    *(("R3", 115, 91.5), ("R4", 88, 94), ("D1", 107.5, 111), ("C5", 9, 77)),
)


@dataclasses.dataclass(frozen=True)
class Scene:
    """What one image shows without a defect."""

    light: canvas.Light
    pose: tuple[float, float, float]  # shift in u, rotation in degrees
    grain: Array
    cloud: Array
    parts: list[Part]
    shades: Array  # factor on the colours of each part
    bare: Surface  # the board without pads and parts


def sample_scene(frame: Frame, rng: np.random.Generator) -> Scene:
    """A random scene: pose, light, parts."""
    light = canvas.make_light(rng, azimuth=-115, elevation=52, jitter=0.05)
    dx, dy = rng.uniform(-1, 1, 2)
    angle = rng.uniform(-0.5, 0.5)
    grain = canvas.grain(rng, frame, blur=0.35)
    cloud = canvas.smooth_noise(rng, frame, 34)
    parts = [
        dataclasses.replace(
            part,
            x=part.x + rng.uniform(-0.25, 0.25),
            y=part.y + rng.uniform(-0.25, 0.25),
            turn=part.turn + rng.uniform(-0.8, 0.8),
        )
        for part in PARTS
    ]
    shades = rng.uniform(0.95, 1.05, len(parts))

    bare = _bare_board(frame, dx, dy, angle, cloud)
    return Scene(light, (dx, dy, angle), grain, cloud, parts, shades, bare)


def paint(frame: Frame, scene: Scene, defect: DefectInstance | None = None) -> Array:
    """The scene in linear light, ``[S, S, 3]``."""
    parts, shades, grain = scene.parts, scene.shades, scene.grain
    if defect and defect.type == "open_track":
        surface = _bare_board(frame, *scene.pose, scene.cloud, _open_track(defect.rng))
    else:
        surface = copy.deepcopy(scene.bare)
    if defect and defect.type == "scratch":
        _scratch(surface, defect.rng)
    for part in PARTS:
        draw_pads(surface, part)
    if defect and defect.type == "flux_residue":
        _flux_residue(surface, defect.rng)
    if defect and defect.type in _SWAPS:
        parts = _SWAPS[defect.type](parts, defect.rng)
    if defect and defect.type == "extra_part":
        parts, shades = [*parts, _extra_part(defect.rng)], np.append(shades, 1)
    for part, shade in zip(parts, shades, strict=True):
        if part.kind != "none":
            draw_part(surface, part, shade)
    if defect and defect.type == "solder_ball":
        _solder_ball(surface, defect.rng)
    if defect and defect.type == "solder_bridge":
        _solder_bridge(surface, parts, defect.rng)
    if defect and defect.type == "burn":
        _burn(surface, parts, defect.rng, grain)
    return _light(surface, scene.light, grain)


def _bare_board(
    frame: Frame, dx: float, dy: float, angle: float, cloud: Array, cut: Array | None = None
) -> Surface:
    """Laminate, copper, solder mask, vias, holes and silk screen.

    ``cut``: ends ``[2, 2]`` in u of the stretch where a track is interrupted.
    """
    zero = np.zeros_like(frame.x)
    surface = Surface(
        *(frame, dx, dy, angle, zero.copy(), np.empty((*zero.shape, 3), np.float32)),
        *(np.full_like(zero, 0.10), zero.copy(), zero.copy(), {}),
    )
    copper = np.zeros(zero.shape, np.uint8)
    for track in TRACKS:
        _line(copper, surface, track, 1.7)
    copper = np.maximum(copper, _pour(surface, copper))
    for x, y in VIAS:
        cv2.circle(copper, *_fixed(surface, x, y, 1.9), 255, -1, cv2.LINE_AA, 4)
    surface.copper = copper.astype(np.float32) / 255
    if cut is not None:
        surface.copper *= 1 - coverage(canvas.stroke(frame, surface.place(cut), (1.2, 1.2))[0])
    weave = np.sin(frame.x * 1.9) * np.sin(frame.y * 1.9)
    base = canvas.tint(MASK, (1 + 0.05 * weave + 0.03 * cloud).astype(np.float32))
    surface.colour = canvas.over(base, MASK_ON_COPPER, surface.copper)
    surface.height = 0.45 * cv2.GaussianBlur(surface.copper, (0, 0), 0.35 / frame.pitch)
    for x, y in VIAS:
        window, lx, ly = surface.local(x, y, 0, 4)
        r = np.hypot(lx, ly)
        surface.put(window, coverage(r - 1.55), (0.42, 0.33, 0.16), 0.4, 0.5)
        surface.put(window, coverage(r - 0.75), (0.012, 0.012, 0.010), 0.0, 0.0)
    for text, x, y in SILK:
        window, lx, ly = surface.local(x, y, 0, 9)
        surface.put(window, 0.9 * lettering(text, lx, ly, 5.0), INK, 0.04)
    window, lx, ly = surface.local(100, 121.8, 0, 16)
    surface.put(window, 0.9 * lettering("REV B", lx, ly, 4.4), INK, 0.04)
    for x, y, radius in HOLES:
        window, lx, ly = surface.local(x, y, 0, radius + 5)
        r = np.hypot(lx, ly)
        surface.put(window, coverage(r - radius - 2.2), (0.45, 0.36, 0.18), 0.35, 0.4)
        surface.put(window, coverage(r - radius), (0.016, 0.016, 0.017), 0.0, -1.5)
    return surface


def _fixed(surface: Surface, x: float, y: float, radius: float) -> tuple[tuple[int, int], int]:
    """Centre and radius in OpenCV's fixed-point pixels (4 fractional bits)."""
    point = (surface.place(np.array([[x, y]]))[0] / surface.frame.pitch - 0.5) * 16
    return tuple(np.rint(point).astype(int).tolist()), round(radius / surface.frame.pitch * 16)


def _line(image: Array, surface: Surface, points: list, width: float) -> None:
    pixels = surface.place(np.array(points, np.float64)) / surface.frame.pitch - 0.5
    fixed = np.rint(pixels * 16).astype(np.int32)
    thickness = max(1, round(width / surface.frame.pitch))
    cv2.polylines(image, [fixed], False, 255, thickness, cv2.LINE_AA, 4)


def _pour(surface: Surface, tracks: Array) -> Array:
    """A copper pour with clearance to the tracks."""
    image = np.zeros_like(tracks)
    pixels = surface.place(np.array(POUR, np.float64)) / surface.frame.pitch - 0.5
    cv2.fillPoly(image, [np.rint(pixels * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    gap = 2 * max(1, round(1.2 / surface.frame.pitch)) + 1
    kept = cv2.dilate(tracks, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    return np.minimum(image, 255 - kept)


def _light(surface: Surface, light: canvas.Light, grain: Array) -> Array:
    """Shade the surface: diffuse light, highlights, and shadows of each layer on lower ones."""
    frame = surface.frame
    n = canvas.normals(cv2.GaussianBlur(surface.height, (0, 0), 0.4 / frame.pitch), frame)
    bright = np.ones_like(surface.height)
    for tall, layer in sorted(surface.tall.items()):
        dark = canvas.shadow(layer, frame, light, tall * 0.62, 0.5 + 0.16 * tall)
        below = ramp(tall - surface.height, 0.3, 1.6)
        bright *= 1 - 0.62 * dark * below
    shade = canvas.diffuse(n, light) * bright * (1 + 0.035 * grain)
    shine = canvas.gloss(n, light, 22) * surface.shine * bright * 0.8
    return (surface.colour * shade[..., None] + shine[..., None]).astype(np.float32)


# --- defects --------------------------------------------------------------------------------------


def _choose(parts: list[Part], draw: np.random.Generator, kinds: tuple[str, ...]) -> int:
    return int(draw.choice([k for k, part in enumerate(parts) if part.kind in kinds]))


def _changed(parts: list[Part], k: int, changed: Part) -> list[Part]:
    return [changed if i == k else p for i, p in enumerate(parts)]


def _missing_part(parts: list[Part], draw: np.random.Generator) -> list[Part]:
    k = _choose(parts, draw, (*SMALL, "crystal", "can", "soic"))
    return _changed(parts, k, dataclasses.replace(parts[k], kind="none"))


def _shifted_part(parts: list[Part], draw: np.random.Generator) -> list[Part]:
    k = _choose(parts, draw, (*SMALL, "crystal", "soic"))
    part, way = parts[k], draw.uniform(0, 2 * np.pi)
    far = draw.uniform(2.6, 4.6)
    turn = part.turn + draw.choice([-1, 1]) * draw.uniform(7, 24)
    x, y = part.x + far * np.cos(way), part.y + far * np.sin(way)
    return _changed(parts, k, dataclasses.replace(part, x=x, y=y, turn=turn))


def _wrong_part(parts: list[Part], draw: np.random.Generator) -> list[Part]:
    k = _choose(parts, draw, (*SMALL, "can"))
    part = parts[k]
    if part.kind == "can" or (part.kind in ("diode", "tantalum") and draw.random() < 0.6):
        return _changed(parts, k, dataclasses.replace(part, turn=part.turn + 180))
    others = [kind for kind in SMALL if kind != part.kind]
    kind = others[draw.integers(len(others))]
    text = {"resistor": "331", "tantalum": "225"}.get(kind, "")
    return _changed(parts, k, dataclasses.replace(part, kind=kind, text=text))


def _extra_part(draw: np.random.Generator) -> Part:
    """A chip at a place that is free of parts and holes."""
    kind = "resistor" if draw.random() < 0.5 else "ceramic"
    taken = [(p.x, p.y, *((p.h, p.w) if p.turn % 180 == 90 else (p.w, p.h))) for p in PARTS] + [
        (x, y, 2 * radius, 2 * radius) for x, y, radius in HOLES
    ]
    while True:
        (x, y), turn = draw.uniform(12, 116, 2), 90 * int(draw.integers(2))
        w, h = (6.8, 11.8) if turn else (11.8, 6.8)
        if all(
            abs(x - tx) > (w + tw) / 2 + 3.5 or abs(y - ty) > (h + th) / 2 + 3.5
            for tx, ty, tw, th in taken
        ):
            return Part("", kind, x, y, 11.8, 6.8, turn, "103" if kind == "resistor" else "")


_SWAPS = {
    "missing_part": _missing_part,
    "shifted_part": _shifted_part,
    "wrong_part": _wrong_part,
}


def _open_track(draw: np.random.Generator) -> Array:
    """Ends of the missing stretch ``[2, 2]``, within one straight piece of a track."""
    pieces = [
        np.array(piece, float)
        for track in TRACKS
        for piece in itertools.pairwise(track)
        if math.dist(*piece) > 10
    ]
    start, end = pieces[draw.integers(len(pieces))]
    length = math.dist(start, end)
    gap = draw.uniform(3.5, 6)
    middle = draw.uniform(gap / 2 + 1, length - gap / 2 - 1)
    return start + (end - start) * ((middle + np.array([[-0.5], [0.5]]) * (gap - 2.4)) / length)


def _flux_residue(surface: Surface, draw: np.random.Generator) -> None:
    """A film on the board before the parts are drawn."""
    at, size = draw.uniform(22, 106, 2), draw.uniform(6.5, 10.5)
    drops = at + draw.normal(0, size * 0.6, (4, 2))
    d = canvas.puddle(surface.frame, drops, size * draw.uniform(0.5, 0.9, 4), merge=2.0)
    rim = 0.4 * np.exp(-np.square((d + 1.0) / 1.2))
    film = draw.uniform(0.18, 0.24) * coverage(d, 2.0) * (0.8 + rim)
    surface.put((slice(None), slice(None)), film.astype(np.float32), (0.13, 0.12, 0.06), 0.1)


def _solder_ball(surface: Surface, draw: np.random.Generator) -> None:
    """A ball on the solder mask, away from parts, pads and silk screen."""
    radius = draw.uniform(1.0, 1.45)
    for at in draw.uniform(10, 118, (100, 2)):
        window, lx, ly = surface.local(at[0], at[1], 0, radius + 2.5)
        mask_only = np.abs(surface.shine[window] - 0.10) < 0.01
        if mask_only.all() and not surface.parts[window].any():
            break
    d = np.hypot(lx, ly) - np.float32(radius)
    dome = 2 * np.sqrt(np.clip(-d * (2 * radius + d), 0, None))
    surface.put(window, coverage(d, 0.5), SOLDER, 0.75, dome.astype(np.float32))


def _scratch(surface: Surface, draw: np.random.Generator) -> None:
    """Scratch before the parts are drawn: exposes the laminate, or copper where there is some."""
    at, a = draw.uniform(18, 110, 2), draw.uniform(0, np.pi)
    length = draw.uniform(17, 30)
    t = np.linspace(-1, 1, 8)
    way, across = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
    line = at + t[:, None] * length * way + (draw.uniform(-3, 3) * (1 - t * t))[:, None] * across
    half = draw.uniform(1.0, 1.5) * np.sqrt(np.clip(1 - 0.85 * t * t, 0.05, 1))
    d, along = canvas.stroke(surface.frame, line, half)
    skips = ramp(np.sin(along * draw.uniform(14, 26) + draw.uniform(0, 6)), -0.95, -0.6)
    whole = (slice(None), slice(None))
    alpha = (coverage(d, 0.9) * (0.55 + 0.45 * skips)).astype(np.float32)
    bare = canvas.over(
        np.broadcast_to(np.array(LAMINATE, np.float32), surface.colour.shape).copy(),
        COPPER,
        surface.copper,
    )
    surface.put(whole, 0.9 * alpha, bare, 0.16)
    burr = coverage(np.abs(d - 0.8) - 0.4, 0.8) * (1 - alpha)
    surface.put(whole, 0.35 * burr, (0.10, 0.20, 0.13), 0.1)
    surface.height -= 0.35 * alpha


def _solder_bridge(surface: Surface, parts: list[Part], draw: np.random.Generator) -> None:
    part = parts[_choose(parts, draw, ("qfp", "soic"))]
    pads = leads(part)
    side = 7 if part.kind == "qfp" else 4
    span = int(draw.integers(2, 4)) if part.kind == "qfp" else 2
    first = side * int(draw.integers(len(pads) // side)) + int(draw.integers(side - span + 1))
    window, lx, ly = surface.local(part.x, part.y, part.turn, max(part.w, part.h) / 2 + 9)
    total = np.zeros_like(lx)
    for k in range(first, first + span):
        x, y, w, h = pads[k]
        out = np.array([np.sign(x) if w > h else 0, np.sign(y) if h > w else 0])
        cx, cy = np.array([x, y]) + out * draw.uniform(-0.2, 1.4)
        radius = draw.uniform(1.9, 2.7)
        total += np.exp(np.clip(-(np.hypot(lx - cx, ly - cy) - radius) / 0.9, -30, 30))
    d = -0.9 * np.log(np.maximum(total, 1e-12))
    dome = 1.0 + 1.9 * np.sqrt(np.clip(-d / 2.4, 0, 1))
    surface.put(window, coverage(d, 0.7), SOLDER, 0.75, dome.astype(np.float32))


def _burn(surface: Surface, parts: list[Part], draw: np.random.Generator, grain: Array) -> None:
    part = parts[_choose(parts, draw, (*SMALL, "soic", "qfp"))]
    edge = draw.uniform(-0.5, 0.5, 2) * (part.w, part.h)
    at = surface.place(np.array([[part.x, part.y]]) + edge)[0]
    size = draw.uniform(4.0, 6.5)
    drift = draw.normal(0, size * 0.4, (3, 2))
    d = canvas.puddle(surface.frame, at + drift, size * draw.uniform(0.5, 0.9, 3), merge=2.5)
    char = ramp(-d + 0.5 * grain, -2.5, size * 0.55)
    toast = ramp(-d, -6.5, 0.5) * (1 - char)
    whole = (slice(None), slice(None))
    surface.colour *= 1 - (0.55 * toast)[..., None] * np.array([0.35, 0.75, 0.95], np.float32)
    surface.put(whole, 0.22 * toast, (0.13, 0.075, 0.03), 0.06)
    soot = canvas.tint((0.011, 0.009, 0.008), 1 + 0.35 * grain)
    surface.put(whole, (draw.uniform(0.8, 0.95) * char).astype(np.float32), soot, 0.02)
    surface.height += (0.25 * grain * char).astype(np.float32)
