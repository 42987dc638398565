"""The parts of the circuit board: positions, and the drawing of each component type."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from realnet.datasets.demo import canvas
from realnet.datasets.demo.canvas import Array, Frame, box, coverage

EPOXY = (0.020, 0.020, 0.022)
TIN = (0.40, 0.40, 0.39)
SOLDER = (0.33, 0.335, 0.33)
INK = (0.62, 0.63, 0.60)
ALUMINIUM = (0.44, 0.45, 0.46)


@dataclass(frozen=True)
class Part:
    """A component: centre and size in u, rotation ``turn`` in degrees, printed ``text``."""

    name: str
    kind: str
    x: float
    y: float
    w: float
    h: float
    turn: float = 0
    text: str = ""


PARTS = (
    Part("U1", "qfp", 43, 44, 27, 27, 0, "RN32"),
    Part("U2", "soic", 101, 25, 15, 20, 0, "LM7"),
    Part("C1", "can", 104, 64, 21, 21, 0, "47"),
    Part("Y1", "crystal", 45, 84, 24, 10, 0, "12.0"),
    Part("J1", "header", 42, 115, 60, 13, 0),
    Part("R1", "resistor", 13, 21, 11.8, 6.8, 90, "103"),
    Part("R2", "resistor", 13, 40, 11.8, 6.8, 90, "472"),
    Part("C2", "ceramic", 13, 59, 11.8, 6.8, 90),
    Part("C3", "ceramic", 76, 67, 11.8, 6.8, 90),
    Part("C4", "ceramic", 76, 86, 11.8, 6.8, 90),
    Part("R3", "resistor", 101, 87.5, 11.8, 6.8, 0, "220"),
    Part("R4", "resistor", 101, 99, 11.8, 6.8, 0, "101"),
    Part("D1", "diode", 93, 112, 13, 7, 0),
    Part("C5", "tantalum", 18, 82, 14, 8, 90, "106"),
)
SMALL = ("resistor", "ceramic", "diode", "tantalum")
HEIGHTS = {"qfp": 2.6, "soic": 3.0, "can": 8.5, "crystal": 4.5, "header": 7.5, "tantalum": 3.4}
DEFAULT_HEIGHT = 2.0  # of the other component types


@dataclass
class Surface:
    """Material and relief of the board before lighting; parts are drawn on it one by one."""

    frame: Frame
    dx: float  # board's pose
    dy: float
    angle: float
    height: Array  # u above the laminate
    colour: Array  # [S, S, 3]
    shine: Array  # strength of the highlight
    copper: Array  # 0..1
    parts: Array  # 0..1, covered by a component
    tall: dict[float, Array]  # coverage by height, for the shadows

    def local(
        self, x: float, y: float, turn: float, reach: float
    ) -> tuple[tuple[slice, slice], Array, Array]:
        """A window around board position (x, y), with coordinates centred there and rotated."""
        cx, cy = self.place(np.array([[x, y]]))[0]
        pitch, pixels = self.frame.pitch, self.frame.pixels
        x0, x1 = np.clip([(cx - reach) / pitch, (cx + reach) / pitch], 0, pixels).astype(int)
        y0, y1 = np.clip([(cy - reach) / pitch, (cy + reach) / pitch], 0, pixels).astype(int)
        window = (slice(y0, y1), slice(x0, x1))
        lx, ly = canvas.rotate(
            self.frame.x[window] - np.float32(cx),
            self.frame.y[window] - np.float32(cy),
            turn + self.angle,
        )
        return window, lx, ly

    def place(self, points: Array) -> Array:
        """Board coordinates ``[K, 2]`` to image coordinates, in u."""
        middle = canvas.FIELD / 2
        x, y = canvas.rotate(points[:, 0] - middle, points[:, 1] - middle, -self.angle)
        return np.stack([x + middle + self.dx, y + middle + self.dy], axis=1)

    def put(
        self,
        window: tuple[slice, slice],
        alpha: Array,
        colour: Sequence[float] | Array,
        shine: float,
        height: Array | float | None = None,
    ) -> None:
        """Blend a material over the window; ``height`` replaces the relief there."""
        window, inside = _covered(window, alpha)
        alpha = alpha[inside]
        if not alpha.size:
            return
        if isinstance(colour, np.ndarray) and colour.ndim == 3:
            colour = colour[inside]
        if isinstance(height, np.ndarray) and height.ndim == 2:
            height = height[inside]
        self.colour[window] = canvas.over(self.colour[window], colour, alpha)
        self.shine[window] += (np.float32(shine) - self.shine[window]) * alpha
        if height is not None:
            self.height[window] += (height - self.height[window]) * alpha

    def add_caster(self, window: tuple[slice, slice], alpha: Array, height: float) -> None:
        """Register a component that casts a shadow."""
        layer = self.tall.setdefault(height, np.zeros_like(self.height))
        layer[window] = np.maximum(layer[window], alpha)
        self.parts[window] = np.maximum(self.parts[window], alpha)


def _covered(
    window: tuple[slice, slice], alpha: Array
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of the window where ``alpha`` is not 0: in the image, and inside the window."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return (slice(0, 0), slice(0, 0)), (slice(0, 0), slice(0, 0))
    top, left = window[0].start or 0, window[1].start or 0
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    inside = (slice(y0, y1), slice(x0, x1))
    return (slice(top + y0, top + y1), slice(left + x0, left + x1)), inside


def _near(
    window: tuple[slice, slice], lx: Array, ly: Array, at: tuple[float, float], reach: float
) -> tuple[tuple[slice, slice], Array, Array]:
    """The square of at least ``reach`` u around a local point: smaller, so faster to draw in."""
    if min(lx.shape) < 2:
        return window, lx, ly
    # Local coordinates are linear in the row and column: a rotation and a scale.
    across, down = lx[0, 1] - lx[0, 0], ly[0, 1] - ly[0, 0]
    square = across * across + down * down
    dx, dy = at[0] - lx[0, 0], at[1] - ly[0, 0]
    column, row = (dx * across + dy * down) / square, (dy * across - dx * down) / square
    far = 1.5 * reach / np.sqrt(square)
    y0, y1 = np.clip([row - far, row + far + 1], 0, lx.shape[0]).astype(int).tolist()
    x0, x1 = np.clip([column - far, column + far + 1], 0, lx.shape[1]).astype(int).tolist()
    inside = (slice(y0, y1), slice(x0, x1))
    top, left = window[0].start, window[1].start
    return (slice(top + y0, top + y1), slice(left + x0, left + x1)), lx[inside], ly[inside]


@functools.lru_cache(maxsize=64)
def _bitmap(text: str) -> Array:
    """Text, white on black, 0..1; 20 pixels high."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.8
    (width, _), _ = cv2.getTextSize(text, font, scale, 2)
    image = np.zeros((28, width + 8), np.uint8)
    cv2.putText(image, text, (4, 22), font, scale, 255, 2, cv2.LINE_AA)
    return image.astype(np.float32) / 255


def lettering(text: str, lx: Array, ly: Array, height: float) -> Array:
    """Coverage of a text centred at the origin of local coordinates, ``height`` u high."""
    bitmap = _bitmap(text)
    step = 18 / height
    at_x = (lx * step + bitmap.shape[1] / 2).astype(np.float32)
    at_y = (ly * step + bitmap.shape[0] / 2).astype(np.float32)
    return cv2.remap(bitmap, at_x, at_y, cv2.INTER_AREA | cv2.INTER_LINEAR)


def leads(part: Part) -> list[tuple[float, float, float, float]]:
    """Pads of a part in its own coordinates: (x, y, half width, half height)."""
    w, h = part.w / 2, part.h / 2
    if part.kind == "qfp":
        at = (np.arange(7) - 3) * 3.7
        sides = [(s * (w + 1.6), a, 2.3, 0.95) for s in (-1, 1) for a in at]
        return sides + [(a, s * (h + 1.6), 0.95, 2.3) for s in (-1, 1) for a in at]
    if part.kind == "soic":
        at = (np.arange(4) - 1.5) * 5.0
        return [(s * (w + 1.5), a, 2.5, 1.25) for s in (-1, 1) for a in at]
    if part.kind == "can":
        return [(s * (w + 0.5), 0, 3.2, 1.7) for s in (-1, 1)]
    if part.kind == "crystal":
        return [(s * (w + 1), 0, 2.6, 2.0) for s in (-1, 1)]
    if part.kind == "header":
        return []
    return [(s * w * 0.92, 0, 2.4, h + 0.7) for s in (-1, 1)]


def draw_pads(surface: Surface, part: Part) -> None:
    """The footprint: tinned pads with a little solder, and the silk-screen outline."""
    window, lx, ly = surface.local(part.x, part.y, part.turn, max(part.w, part.h) / 2 + 9)
    for x, y, w, h in leads(part):
        near, px, py = _near(window, lx, ly, (x, y), max(w, h) + 1)
        d = box(px - np.float32(x), py - np.float32(y), w, h, 0.4)
        bump = 0.18 + 0.35 * np.clip(-d / 1.2, 0, 1)
        surface.put(near, coverage(d), SOLDER, 0.35, bump)
    if part.kind in SMALL:
        frame = np.abs(box(lx, ly, part.w / 2 + 2.9, part.h / 2 + 2.0, 0.8)) - 0.32
        corner = (np.abs(lx) > part.w * 0.28).astype(np.float32)
        surface.put(window, coverage(frame, 0.7) * corner * 0.9, INK, 0.03)
    elif part.kind == "can":
        frame = np.abs(box(lx, ly, part.w / 2 + 1.6, part.h / 2 + 1.6, 3)) - 0.32
        surface.put(window, coverage(frame, 0.7) * 0.9, INK, 0.03)


def draw_part(surface: Surface, part: Part, shade: float) -> None:
    """The component itself. ``shade``: factor on its colours (its batch)."""
    window, lx, ly = surface.local(part.x, part.y, part.turn, max(part.w, part.h) / 2 + 9)
    tall = HEIGHTS.get(part.kind, DEFAULT_HEIGHT)
    body = _BUILD[part.kind](surface, window, lx, ly, part, shade, tall)
    surface.add_caster(window, body, tall)


def _bevelled(d: Array, tall: float, bevel: float) -> Array:
    """Height of a body with bevelled edges."""
    return np.float32(tall) - np.float32(0.9) * np.clip(bevel + d, 0, bevel)


def _scaled(colour: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(c * factor for c in colour)


def _package(surface, window, lx, ly, part, shade, tall) -> Array:
    for x, y, w, h in leads(part):
        near, px, py = _near(window, lx, ly, (x, y), max(w, h) + 1.6)
        if w > h:
            d = box(
                px - np.float32(x - np.sign(x) * 0.6), py - np.float32(y), w - 0.5, h - 0.3, 0.3
            )
        else:
            d = box(
                px - np.float32(x), py - np.float32(y - np.sign(y) * 0.6), w - 0.3, h - 0.5, 0.3
            )
        surface.put(near, coverage(d, 0.5), TIN, 0.55, 1.0 + 0.3 * np.clip(-d, 0, 0.6))
    w, h = part.w / 2, part.h / 2
    d = box(lx, ly, w, h, 0.8)
    alpha = coverage(d)
    surface.put(window, alpha, _scaled(EPOXY, shade), 0.07, _bevelled(d, tall, 1.1))
    dot = np.hypot(lx + w - 3.6, ly + h - 3.6) - 1.35
    surface.put(window, coverage(dot, 0.7), _scaled(EPOXY, 0.5), 0.14, tall - 0.4)
    size = 5.6 if part.kind == "qfp" else 4.2
    turned = (lx, ly) if part.kind == "qfp" else (ly, -lx)
    text = lettering(part.text, turned[0], turned[1], size)
    line = lettering("2412", turned[0], turned[1] - size * 1.35, size * 0.7)
    surface.put(window, np.clip(text + line, 0, 1) * alpha * 0.75, (0.23, 0.23, 0.22), 0.05)
    return alpha


def _chip(surface, window, lx, ly, part, shade, tall) -> Array:
    """Two-terminal chips: resistor and ceramic capacitor."""
    w, h = part.w / 2, part.h / 2
    d = box(lx, ly, w, h, 0.5)
    alpha = coverage(d)
    for s in (-1, 1):  # solder fillets at the ends
        foot = box(lx - np.float32(s * (w + 0.8)), ly, 1.3, h * 0.92, 0.6)
        surface.put(window, coverage(foot), SOLDER, 0.5, np.clip(-foot, 0, 1) * 1.2 + 0.4)
    if part.kind == "resistor":
        surface.put(
            window, alpha, _scaled((0.022, 0.022, 0.026), shade), 0.10, _bevelled(d, tall, 0.6)
        )
        text = lettering(part.text, lx, ly, 3.6)
        surface.put(window, text * alpha * 0.9, (0.5, 0.5, 0.5), 0.05)
    else:
        colour = _scaled((0.27, 0.185, 0.105), shade)
        surface.put(window, alpha, colour, 0.10, _bevelled(d, tall, 0.9))
    caps = coverage(np.float32(w - 2.1) - np.abs(lx), 0.6) * alpha
    surface.put(window, caps, TIN, 0.5)
    return alpha


def _moulded_part(surface, window, lx, ly, part, shade, tall) -> Array:
    """Moulded diode (black, white band) and tantalum capacitor (yellow, brown bar)."""
    w, h = part.w / 2, part.h / 2
    for s in (-1, 1):
        foot = box(lx - np.float32(s * (w + 0.5)), ly, 1.8, h * 0.55, 0.4)
        surface.put(window, coverage(foot), TIN, 0.5, 0.9)
    d = box(lx, ly, w, h, 0.7)
    alpha = coverage(d)
    diode = part.kind == "diode"
    colour = (0.030, 0.028, 0.028) if diode else (0.46, 0.27, 0.05)
    surface.put(window, alpha, _scaled(colour, shade), 0.08, _bevelled(d, tall, 1.0))
    bar = coverage(np.abs(lx + w - 2.6) - (0.85 if diode else 1.0), 0.6) * alpha
    surface.put(window, bar, (0.50, 0.50, 0.48) if diode else (0.10, 0.04, 0.015), 0.06)
    if part.text:
        text = lettering(part.text, lx - 1.2, ly, 3.8)
        surface.put(window, text * alpha * 0.85, (0.10, 0.04, 0.015), 0.05)
    return alpha


def _can(surface, window, lx, ly, part, shade, tall) -> Array:
    """Aluminium electrolytic capacitor on a plastic base, negative side black."""
    base = box(lx, ly, part.w / 2, part.h / 2, 3.0)
    surface.put(window, coverage(base), _scaled(EPOXY, 1.2), 0.08, 1.6)
    r = np.hypot(lx, ly)
    d = r - np.float32(part.w / 2 - 0.9)
    alpha = coverage(d)
    rim = np.exp(-np.square((d + 1.6) / 0.8))
    lid = _bevelled(d, tall, 1.4) - 0.35 * coverage(d + 2.6, 1.0)
    surface.put(window, alpha, _scaled(ALUMINIUM, 0.75 * shade), 0.30, lid + 0.25 * rim)
    minus = coverage(lx + np.float32(part.w * 0.17), 0.6) * coverage(d + 1.9)
    surface.put(window, minus, (0.018, 0.018, 0.022), 0.08)
    text = lettering(part.text, lx - 3.4, ly, 5.0)
    surface.put(window, text * alpha * 0.85, (0.02, 0.02, 0.02), 0.05)
    return np.maximum(alpha, coverage(base))


def _crystal(surface, window, lx, ly, part, shade, tall) -> Array:
    d = box(lx, ly, part.w / 2, part.h / 2, part.h / 2 - 0.2)
    flange = coverage(d - 0.9)
    surface.put(window, flange, _scaled(ALUMINIUM, 0.7), 0.3, 1.0)
    dome = np.float32(tall) - 1.1 * np.square(np.clip(1 + d / 2.6, 0, 1))
    alpha = coverage(d)
    surface.put(window, alpha, _scaled(ALUMINIUM, 0.72 * shade), 0.35, dome)
    text = lettering(part.text, lx, ly, 4.6)
    surface.put(window, text * alpha * 0.7, (0.10, 0.10, 0.10), 0.1)
    return flange


def _header(surface, window, lx, ly, part, shade, tall) -> Array:
    """A white pin header with six contacts."""
    d = box(lx, ly, part.w / 2, part.h / 2, 0.8)
    alpha = coverage(d)
    surface.put(window, alpha, _scaled((0.50, 0.48, 0.42), shade), 0.07, _bevelled(d, tall, 1.0))
    for x in (np.arange(6) - 2.5) * 9.2:
        well = box(lx - np.float32(x), ly + 0.4, 3.4, 3.9, 0.5)
        surface.put(window, coverage(well), (0.115, 0.11, 0.10), 0.03, tall - 3.0)
        pin = box(lx - np.float32(x), ly + 0.2, 1.35, 2.1, 0.3)
        surface.put(
            window, coverage(pin), (0.44, 0.34, 0.16), 0.5, tall - 1.5 + np.clip(-pin, 0, 0.7)
        )
    return alpha


_BUILD = {
    "qfp": _package,
    "soic": _package,
    "resistor": _chip,
    "ceramic": _chip,
    "diode": _moulded_part,
    "tantalum": _moulded_part,
    "can": _can,
    "crystal": _crystal,
    "header": _header,
}
